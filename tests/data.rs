//! Files of data and weights: what is read, what is refused and in which words, and the split.

use std::fs;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use kernelet::Error;
use kernelet::data::npz::{Input, Limit, read_float_arrays, write_atomically, write_float_arrays};
use kernelet::data::split::permutation;
use kernelet::data::{Dataset, Images, PIXELS, Samples, read_images};
use zip::CompressionMethod::{self, Deflated, Stored};
use zip::write::SimpleFileOptions;

/// An `.npy` member with the header text of NumPy, or any other.
fn npy_with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16 + 1).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.push(b'\n');
    npy.extend(data);
    npy
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    npy_with_header(&header, data)
}

fn npy_fortran(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': True, 'shape': {shape}, }}");
    npy_with_header(&header, data)
}

fn zipped(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn parse(npz: &[u8]) -> Result<Dataset, Error> {
    Dataset::parse(Cursor::new(npz), "some.npz")
}

fn parse_arrays(images: &[u8], labels: &[u8]) -> Result<Dataset, Error> {
    parse(&zipped(&[("images.npy", images), ("labels.npy", labels)], Stored))
}

/// `n` images that differ, as bytes.
fn pixels(n: usize) -> Vec<u8> {
    (0..n * PIXELS).map(|i| (i * 31 % 251) as u8).collect()
}

fn two_images() -> Vec<u8> {
    npy("|u1", "(2, 28, 28)", &pixels(2))
}

fn two_labels() -> Vec<u8> {
    npy("|u1", "(2,)", &[3, 9])
}

/// The message, which has to be one line that begins with the file and the array.
#[track_caller]
fn refusal(result: Result<Dataset, Error>) -> String {
    let message = result.expect_err("the file must be refused").to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    assert!(message.len() < 600, "too long: {message}");
    message.strip_prefix("some.npz: ").expect("the message begins with the file").to_owned()
}

#[track_caller]
fn refused_images(images: &[u8], why: &str) {
    let message = refusal(parse_arrays(images, &two_labels()));
    assert_eq!(message, format!("array \"images\" {why}"), "with images of {} bytes", images.len());
}

#[track_caller]
fn refused_labels(labels: &[u8], why: &str) {
    let message = refusal(parse_arrays(&two_images(), labels));
    assert_eq!(message, format!("array \"labels\" {why}"), "with labels {labels:?}");
}

fn scaled(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&v| f32::from(v) / 255.0).collect()
}

/// All samples in the file's order.
fn whole(data: &Dataset) -> Samples {
    data.split(Some((data.len(), 0)), None).unwrap().train
}

/// Numbers with the dtype and the bytes of either byte order.
macro_rules! both_orders {
    ($descr:literal, $values:expr) => {{
        let values = $values;
        [
            (
                concat!("<", $descr),
                values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
            ),
            (
                concat!(">", $descr),
                values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>(),
            ),
        ]
    }};
}

#[test]
fn stored_and_deflated_files_load() {
    for method in [Stored, Deflated] {
        for shape in ["(2, 28, 28)", "(2, 28, 28, 1)", "(2, 784)"] {
            let images = npy("|u1", shape, &pixels(2));
            let members: [(&str, &[u8]); 3] =
                [("other.npy", b"?"), ("images.npy", &images), ("labels.npy", &two_labels())];
            let data = parse(&zipped(&members, method)).unwrap();
            assert_eq!(data.images, Images::U8(pixels(2)));
            assert_eq!((data.labels.as_slice(), data.classes), (&[3, 9][..], 10));
            assert_eq!((data.len(), data.is_empty(), data.origin.as_str()), (2, false, "some.npz"));
            assert_eq!(whole(&data).images, scaled(&pixels(2)));
        }
    }
}

#[test]
fn floats_are_taken_as_they_are() {
    let values: Vec<f32> = (0..2 * PIXELS).map(|i| i as f32 * 0.37 - 200.0).collect();
    let doubles: Vec<f64> = values.iter().map(|&v| v.into()).collect();
    let encodings = both_orders!("f4", &values).into_iter().chain(both_orders!("f8", &doubles));
    for (descr, bytes) in encodings {
        let data = parse_arrays(&npy(descr, "(2, 784)", &bytes), &two_labels()).unwrap();
        assert_eq!(data.images, Images::F32(values.clone()), "{descr}");
        assert_eq!(whole(&data).images, values, "{descr}");
    }
}

#[test]
fn labels_of_every_integer_type_load() {
    let mut encodings = vec![("|u1", vec![3, 9]), ("|i1", vec![3, 9])];
    encodings.extend(both_orders!("i2", [3_i16, 9]));
    encodings.extend(both_orders!("u2", [3_u16, 9]));
    encodings.extend(both_orders!("i4", [3_i32, 9]));
    encodings.extend(both_orders!("u4", [3_u32, 9]));
    encodings.extend(both_orders!("i8", [3_i64, 9]));
    encodings.extend(both_orders!("u8", [3_u64, 9]));
    for (descr, bytes) in encodings {
        let data = parse_arrays(&two_images(), &npy(descr, "(2,)", &bytes)).unwrap();
        assert_eq!(data.labels, [3, 9], "{descr}");
    }
}

#[test]
fn one_hot_labels_load() {
    let rows = [0_u8, 0, 1, 1, 0, 0];
    let mut encodings = vec![("|u1", rows.to_vec()), ("|b1", rows.to_vec())];
    encodings.extend(both_orders!("i8", rows.map(i64::from)));
    encodings.extend(both_orders!("f4", rows.map(f32::from)));
    encodings.extend(both_orders!("f8", rows.map(f64::from)));
    for (descr, bytes) in encodings {
        let data = parse_arrays(&two_images(), &npy(descr, "(2, 3)", &bytes)).unwrap();
        assert_eq!((data.labels.as_slice(), data.classes), (&[2, 0][..], 3), "{descr}");
    }
    let columns_first = npy_fortran("|u1", "(2, 3)", &[0, 1, 0, 0, 1, 0]);
    assert_eq!(parse_arrays(&two_images(), &columns_first).unwrap().labels, [2, 0]);
}

#[test]
fn fortran_order_is_transposed() {
    let (n, bytes) = (3, pixels(3));
    let mut fortran = Vec::new();
    for column in 0..28 {
        for row in 0..28 {
            fortran.extend((0..n).map(|image| bytes[image * PIXELS + row * 28 + column]));
        }
    }
    let labels = npy("|u1", "(3,)", &[0, 1, 2]);
    let data = parse_arrays(&npy_fortran("|u1", "(3, 28, 28)", &fortran), &labels).unwrap();
    assert_eq!(data.images, Images::U8(bytes.clone()));

    // As big-endian floats, in the four-dimensional shape.
    let wide: Vec<u8> = fortran.iter().flat_map(|&v| f32::from(v).to_be_bytes()).collect();
    let data = parse_arrays(&npy_fortran(">f4", "(3, 28, 28, 1)", &wide), &labels).unwrap();
    assert_eq!(data.images, Images::F32(bytes.iter().map(|&v| v.into()).collect()));
}

#[test]
fn missing_arrays_are_named() {
    let (images, labels) = (two_images(), two_labels());
    let refused = |members: &[(&str, &[u8])]| refusal(parse(&zipped(members, Stored)));
    assert_eq!(
        refused(&[("labels.npy", &labels), ("x.npy", b"")]),
        "array \"images\" is missing: the file holds \"labels\", \"x\""
    );
    assert_eq!(
        refused(&[("images.npy", &images)]),
        "array \"labels\" is missing: the file holds \"images\""
    );
    assert_eq!(refused(&[]), "array \"images\" is missing: the file holds nothing");
    let long: Vec<_> = (0..20).map(|i| format!("{i}\n{}", "x".repeat(1000))).collect();
    let long: Vec<_> = long.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert!(refused(&long).ends_with(", \"9\\nxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", ..."));
}

#[test]
fn wrong_images_are_refused() {
    let n_784 = "(n, 28, 28), (n, 28, 28, 1) or (n, 784) is expected";
    for shape in ["()", "(1568,)", "(2, 28, 27)", "(2, 28, 28, 3)", "(2, 1, 28, 28)", "(2, 783)"] {
        let product: usize = shape
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|extent| extent.parse::<usize>().ok())
            .product();
        let images = npy("|u1", shape, &vec![0; product]);
        refused_images(&images, &format!("has shape {shape}: {n_784}"));
    }
    let many_axes = npy("|u1", &format!("({})", "1, ".repeat(3000)), &[1]);
    refused_images(&many_axes, &format!("has shape (1, 1, 1, 1, 1, 1, 1, 1, ...): {n_784}"));
    let none = npy("|u1", "(0, 28, 28)", &[]);
    refused_images(&none, "has no images: its shape is (0, 28, 28)");
    for (descr, size) in [("|b1", 1), ("|i1", 1), ("<f2", 2), ("<i4", 4), ("<c8", 8), ("|S3", 3)] {
        let images = npy(descr, "(2, 784)", &vec![0; 2 * PIXELS * size]);
        let why = format!("has dtype '{descr}': uint8, float32 and float64 are supported");
        refused_images(&images, &why);
    }
    refused_images(
        &npy("|O", "(2, 784)", b"pickle"),
        "has dtype '|O': Python objects are never unpickled",
    );
    refused_images(
        &npy_with_header(
            "{'descr': [('a', '<f4', (2,))], 'fortran_order': False, 'shape': (2, 784), }",
            &[],
        ),
        "has a structured dtype",
    );
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let mut values = vec![0.5_f32; 2 * PIXELS];
    values[PIXELS + 3 * 28 + 5] = f32::NAN;
    values[2 * PIXELS - 1] = f32::INFINITY;
    for (descr, bytes) in both_orders!("f4", &values) {
        let images = npy(descr, "(2, 784)", &bytes);
        refused_images(&images, "is NaN at image 1, row 3, column 5");
    }
    let mut values = vec![0.5_f64; 2 * PIXELS];
    values[28] = -1e300; // beyond float32
    for (descr, bytes) in both_orders!("f8", &values) {
        let images = npy(descr, "(2, 784)", &bytes);
        refused_images(&images, "is -inf at image 0, row 1, column 0");
    }
}

#[test]
fn wrong_labels_are_refused() {
    let expected = "class numbers (n,) or one-hot rows (n, classes) are expected";
    refused_labels(&npy("|u1", "()", &[1]), &format!("has shape (): {expected}"));
    refused_labels(&npy("|u1", "(2, 1, 1)", &[1, 1]), &format!("has shape (2, 1, 1): {expected}"));
    refused_labels(&npy("|u1", "(2, 0)", &[]), &format!("has shape (2, 0): {expected}"));
    refused_labels(&npy("|u1", "(3,)", &[1; 3]), "has 3 labels of shape (3,) for 2 images");
    refused_labels(&npy("|u1", "(1, 2)", &[0, 1]), "has 1 labels of shape (1, 2) for 2 images");
    refused_labels(&npy("|u1", "(2,)", &[9, 10]), "has 10 at index 1: 0 to 9 are expected");
    refused_labels(&npy("|i1", "(2,)", &[255, 10]), "has -1 at index 0: 0 to 9 are expected");
    for (descr, bytes) in both_orders!("u8", [0, u64::MAX]) {
        let why = "has 18446744073709551615 at index 1: 0 to 9 are expected";
        refused_labels(&npy(descr, "(2,)", &bytes), why);
    }
    // A number that is in range once it is cut to 32 bits.
    for (descr, bytes) in both_orders!("i8", [1_i64 << 32, 0]) {
        let why = "has 4294967296 at index 0: 0 to 9 are expected";
        refused_labels(&npy(descr, "(2,)", &bytes), why);
    }
    for descr in ["<f4", "|S4"] {
        let why = format!("has dtype '{descr}': class numbers of an integer type are expected");
        refused_labels(&npy(descr, "(2,)", &[0; 8]), &why);
    }
    refused_labels(
        &npy("<f2", "(2, 2)", &[0; 8]),
        "has dtype '<f2': one-hot rows of an integer, boolean or float type are expected",
    );
    let not_one_hot: [&[u8]; 4] = [&[1, 0, 0, 0], &[1, 0, 1, 1], &[1, 0, 2, 0], &[1, 0, 1, 7]];
    for rows in not_one_hot {
        let why =
            "of shape (2, 2) is taken as one-hot, but row 1 is not a single 1 among 0s".to_owned();
        refused_labels(&npy("|u1", "(2, 2)", rows), &why);
        let floats: Vec<u8> = rows.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
        refused_labels(&npy("<f8", "(2, 2)", &floats), &why);
    }
    for (descr, rows) in both_orders!("f8", [1.0, 0.0, 1.0 + f64::EPSILON, 0.0]) {
        let why = "of shape (2, 2) is taken as one-hot, but row 1 is not a single 1 among 0s";
        refused_labels(&npy(descr, "(2, 2)", &rows), why);
    }
}

#[test]
fn sizes_that_lie_are_refused() {
    refused_images(
        &npy("|u1", "(3, 784)", &pixels(2)),
        "of dtype '|u1' and shape (3, 784) needs 2352 bytes behind its header of 72, \
         but the file holds 1640 in all",
    );
    refused_images(
        &npy("|u1", "(1, 784)", &pixels(2)),
        "of dtype '|u1' and shape (1, 784) needs 784 bytes behind its header of 72, \
         but the file holds 1640 in all",
    );
    refused_images(
        &npy("<f8", "(10000000, 784)", &[]),
        "of dtype '<f8' and shape (10000000, 784) needs 62720000000 bytes behind its header of 79, \
         but the file holds 79 in all",
    );
    refused_images(
        &npy("|S9999999999999999999", "(2, 784)", &[]),
        "of dtype '|S9999999999999999999' and shape (2, 784) is of no fixed size",
    );
    for shape in
        ["(4294967296, 4294967296)", "(18446744073709551616,)", "(9223372036854775808, 2, 0)"]
    {
        let why = format!(
            "has a header whose shape overflows 64 bits: {{'descr': '|u1', 'fortran_order': False, \
             'shape': {shape}, }}"
        );
        let message = refusal(parse_arrays(&npy("|u1", shape, &[]), &two_labels()));
        assert_eq!(message, format!("array \"images\" {why:.144}"));
    }
}

#[test]
fn wrong_headers_are_refused() {
    let whole = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 784), }";
    let headers = [
        ("", "has a header that cannot be parsed: "),
        ("{'descr': '|u1'", "has a header that cannot be parsed: {'descr': '|u1'"),
        ("(1, 2)", "has a header that cannot be used: expected a python dict literal"),
        ("{}", "has a header that cannot be used: dict is missing key 'fortran_order'"),
        (
            &whole.replace("(2, 784)", "2"),
            "has a header that cannot be used: shape must be list or tuple",
        ),
        (
            &whole.replace("'|u1'", "'?'"),
            "has a header that cannot be used: invalid type string: Invalid type-string",
        ),
        (
            &whole.replace("(2, 784)", "(0x10, 784)"),
            "has a header unlike a plain array's: \
             {'descr': '|u1', 'fortran_order': False, 'shape': (0x10, 784), }",
        ),
        (
            &whole.replace("(2, 784)", "(1 + 1, 784)"),
            "has a header unlike a plain array's: \
             {'descr': '|u1', 'fortran_order': False, 'shape': (1 + 1, 784), }",
        ),
        (
            &whole.replace("(2, 784)", "(-2, 784)"),
            "has a header unlike a plain array's: \
             {'descr': '|u1', 'fortran_order': False, 'shape': (-2, 784), }",
        ),
        (
            &whole.replace("784", "((((784))))"),
            "has a header that is nested too deeply: \
             {'descr': '|u1', 'fortran_order': False, 'shape': (2, ((((784))))), }",
        ),
    ];
    for (header, why) in headers {
        let images = npy_with_header(header, &pixels(2));
        let message = refusal(parse_arrays(&images, &two_labels()));
        let expected = format!("array \"images\" {why}");
        assert!(message.starts_with(&expected), "{message}\ninstead of\n{expected}");
    }
    refused_images(b"not an array", "is not in NumPy's .npy format");
    refused_images(b"", "is damaged: failed to fill whole buffer");
    refused_images(
        b"\x93NUMPY\x09\x00aaaaaaaa",
        "has a header of 1633771873 bytes, more than 10000",
    );
    refused_images(
        b"\x93NUMPY\x09\x00\x02\x00\x00\x00{}",
        "has a header that cannot be used: unsupported version: (9, 0)",
    );
    // Version 2 has a longer length field; NumPy falls back to it for long headers.
    let mut images = b"\x93NUMPY\x02\x00".to_vec();
    images.extend((whole.len() as u32).to_le_bytes());
    images.extend(whole.as_bytes());
    images.extend(pixels(2));
    assert_eq!(parse_arrays(&images, &two_labels()).unwrap().images, Images::U8(pixels(2)));
}

/// A parser that tries the brackets one way and then another takes time that is exponential in
/// their depth, and one that recurses runs out of stack.
#[test]
fn headers_made_to_take_long_are_refused_quickly() {
    let start = std::time::Instant::now();
    for text in ["{", "[", "(", "{[(", "((1,", "[[1,", "{{1:", "{'a':", "{(", "1,", "''", "{}"] {
        for depth in [1, 3, 4, 5, 9_000 / text.len()] {
            for padding in ["", "1,1,", "1:1,", "{1,1},"] {
                let mut header = text.repeat(depth);
                header += &padding.repeat((9_000_usize - header.len()) / padding.len().max(1));
                let images = npy_with_header(&header, &[]);
                refusal(parse_arrays(&images, &two_labels()));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 20.0, "240 headers took {seconds} s");
}

#[test]
fn files_that_are_no_npz_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let refused = || {
        let message = Dataset::open(&path).unwrap_err().to_string();
        message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
    };
    assert!(refused().starts_with("No such file"), "{}", refused());
    for bytes in [&b""[..], b"PK", &two_images(), &[0; 5000]] {
        fs::write(&path, bytes).unwrap();
        assert!(refused().starts_with("not a whole .npz file: "), "{}", refused());
    }
    let npz = zipped(&[("images.npy", &two_images()), ("labels.npy", &two_labels())], Deflated);
    fs::write(&path, &npz[..npz.len() - 30]).unwrap();
    assert!(refused().starts_with("not a whole .npz file: "), "{}", refused());
    fs::write(&path, &npz).unwrap();
    assert_eq!(Dataset::open(&path).unwrap().origin, path.display().to_string());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().starts_with("is a directory"), "{}", refused());
}

#[test]
fn damage_is_noticed() {
    let members: [(&str, &[u8]); 2] =
        [("images.npy", &two_images()), ("labels.npy", &two_labels())];
    let mut npz = zipped(&members, Stored);
    npz[500] ^= 1; // a pixel
    let message = refusal(parse(&npz));
    assert!(message.starts_with("array \"images\" is damaged: "), "{message}");
}

/// Whatever happens to a file, it is read or refused, in one line.
#[test]
fn no_file_causes_a_panic() {
    for method in [Stored, Deflated] {
        // An image of zeros, so that the deflated file is mostly structure.
        let images = npy("|u1", "(1, 28, 28)", &[0; PIXELS]);
        let labels = npy("<i4", "(1, 2)", &[0, 0, 0, 0, 1, 0, 0, 0]);
        let whole = zipped(&[("images.npy", &images), ("labels.npy", &labels)], method);
        let attempt = |npz: &[u8]| {
            if let Err(e) = parse(npz) {
                let message = e.to_string();
                assert!(!message.contains('\n'), "more than one line: {message}");
            }
        };
        attempt(&whole);
        for i in 0..whole.len() {
            attempt(&whole[..i]);
            attempt(&whole[i..]);
            let mut changed = whole.clone();
            for value in [0, 1, 0x7f, 0x80, 0xff, whole[i] ^ 1, whole[i] ^ 0x20, whole[i] ^ 0x80] {
                changed[i] = value;
                attempt(&changed);
            }
            changed[i] = whole[i];
            changed.remove(i);
            attempt(&changed);
        }

        // The same within a member, whose checksum is right then.
        for in_labels in [false, true] {
            let (mut images, mut labels) = (images.clone(), labels.clone());
            for i in 0..images.len().min(labels.len()) {
                for value in (0..=255).step_by(if method == Stored { 1 } else { 17 }) {
                    let npy = if in_labels { &mut labels } else { &mut images };
                    let old = std::mem::replace(&mut npy[i], value);
                    attempt(&zipped(&[("images.npy", &images), ("labels.npy", &labels)], method));
                    let npy = if in_labels { &mut labels } else { &mut images };
                    npy[i] = old;
                }
            }
        }

        // Several changes at a time: bytes, and pieces that move.
        let mut mt = rand_mt::Mt::new(1);
        let mut below = |n: usize| mt.next_u32() as usize % n;
        for _ in 0..10_000 {
            let mut changed = if below(2) == 0 { whole.clone() } else { images.clone() };
            let is_member = changed.len() == images.len();
            for _ in 0..=below(5) {
                let (from, to, len) = (below(changed.len()), below(changed.len()), below(9));
                match below(3) {
                    0 => changed[to] = below(256) as u8,
                    1 => changed[to] = [0, 1, 0xff, b'9', b'(', b'\''][below(6)],
                    _ => {
                        let piece = changed[from..].iter().take(len).copied().collect::<Vec<_>>();
                        changed.splice(to..(to + below(9)).min(changed.len()), piece);
                    }
                }
            }
            if is_member {
                changed = zipped(&[("images.npy", &changed), ("labels.npy", &labels)], method);
            }
            attempt(&changed);
        }
    }
}

/// A file `images.npy` in a folder of its own, read; the message of an error without its begin.
fn read_npy(npy: &[u8]) -> Result<Vec<f32>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    fs::write(&path, npy).unwrap();
    read_images(&path).map_err(|e| {
        let message = e.to_string();
        assert!(!message.contains('\n') && message.len() < 600, "long or not one line: {message}");
        let begin = format!("{}: ", path.display());
        message.strip_prefix(&begin).expect("the message begins with the file").to_owned()
    })
}

#[test]
fn images_in_a_file_of_their_own_load() {
    for shape in ["(2, 28, 28)", "(2, 28, 28, 1)", "(2, 784)"] {
        assert_eq!(read_npy(&npy("|u1", shape, &pixels(2))), Ok(scaled(&pixels(2))), "{shape}");
    }
    assert_eq!(read_npy(&npy("|u1", "(28, 28)", &pixels(1))), Ok(scaled(&pixels(1))), "one image");
    for shape in ["(0, 28, 28)", "(0, 28, 28, 1)", "(0, 784)"] {
        assert_eq!(read_npy(&npy("<f4", shape, &[])), Ok(vec![]), "{shape}");
    }
    let values: Vec<f32> = (0..2 * PIXELS).map(|i| i as f32 * 0.37 - 200.0).collect();
    let doubles: Vec<f64> = values.iter().map(|&v| v.into()).collect();
    for (descr, bytes) in
        both_orders!("f4", &values).into_iter().chain(both_orders!("f8", &doubles))
    {
        assert_eq!(read_npy(&npy(descr, "(2, 784)", &bytes)), Ok(values.clone()), "{descr}");
    }
    let image = pixels(1);
    let column_by_column = (0..PIXELS).map(|i| image[i % 28 * 28 + i / 28]);
    let columns: Vec<u8> = column_by_column.flat_map(|v| f64::from(v).to_be_bytes()).collect();
    let wanted: Vec<f32> = image.iter().map(|&v| v.into()).collect();
    assert_eq!(read_npy(&npy_fortran(">f8", "(28, 28)", &columns)), Ok(wanted), "Fortran order");
}

#[test]
fn wrong_images_in_a_file_of_their_own_are_refused() {
    let expected = "(28, 28), (n, 28, 28), (n, 28, 28, 1) or (n, 784) is expected";
    for (shape, n) in [("()", 1), ("(784,)", 784), ("(2, 28, 27)", 1512), ("(28, 27)", 756)] {
        let why = format!("the array has shape {shape}: {expected}");
        assert_eq!(read_npy(&npy("|u1", shape, &vec![0; n])), Err(why), "{shape}");
    }
    let whole = two_images();
    let cases: [(&[u8], &str); 9] = [
        (b"", "the array is damaged: failed to fill whole buffer"),
        (b"PK\x03\x04 and so on", "the array is not in NumPy's .npy format"),
        (&whole[..40], "the array is damaged: failed to fill whole buffer"),
        (
            &whole[..whole.len() - 1],
            "the array of dtype '|u1' and shape (2, 28, 28) needs 1568 bytes behind its header of \
             75, but the file holds 1642 in all",
        ),
        (
            &[&whole[..], b"?"].concat(),
            "the array of dtype '|u1' and shape (2, 28, 28) needs 1568 bytes behind its header of \
             75, but the file holds 1644 in all",
        ),
        (
            &npy("<f8", "(10000000, 784)", &[]),
            "the array of dtype '<f8' and shape (10000000, 784) needs 62720000000 bytes behind its \
             header of 79, but the file holds 79 in all",
        ),
        (
            &npy("|O", "(2, 784)", b"pickle"),
            "the array has dtype '|O': Python objects are never unpickled",
        ),
        (
            &npy("<i4", "(1, 784)", &[0; 4 * PIXELS]),
            "the array has dtype '<i4': uint8, float32 and float64 are supported",
        ),
        (
            &npy("<f4", "(1, 784)", &[[0, 0, 0, 0], [0, 0, 0xc0, 0x7f]].concat().repeat(392)),
            "the array is NaN at image 0, row 0, column 1",
        ),
    ];
    for (bytes, why) in cases {
        assert_eq!(read_npy(bytes), Err(why.to_owned()), "a file of {} bytes", bytes.len());
    }
    for path in ["absent.npy", "."] {
        let message = read_images(Path::new(path)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{path}: ")), "{message}");
    }
}

/// A pipe does not tell its size beforehand.
#[cfg(target_os = "linux")]
#[test]
fn images_come_through_a_pipe() {
    use std::os::fd::AsRawFd;

    let through = |npy: Vec<u8>| {
        let (reader, mut writer) = io::pipe().unwrap();
        let thread = std::thread::spawn(move || writer.write_all(&npy));
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let result = read_images(Path::new(&path)).map_err(|e| e.to_string());
        drop(reader);
        let _ = thread.join().unwrap(); // a broken pipe where the file was refused
        result
    };
    assert_eq!(through(two_images()), Ok(scaled(&pixels(2))), "two images");
    for (n, held) in [(3, "1568 bytes"), (1, "785 bytes")] {
        let message = through(npy("|u1", &format!("({n}, 784)"), &pixels(2))).unwrap_err();
        let why = format!("the array is damaged: {held} of data instead of {}", n * PIXELS);
        assert!(message.ends_with(&why), "{message}");
    }
    // A pipe does not say how much it holds.
    let message = through(npy("|u1", "(30000000, 784)", &[])).unwrap_err();
    let why = "of shape (30000000, 784) needs 23520000000 bytes of memory, more than its limit of \
               17179869184";
    assert!(message.ends_with(why), "{message}");
}

/// A hundred times what it takes in the file, or 64 MiB, or what the caller says.
#[test]
fn what_takes_more_memory_than_its_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().join("data.npz");
    let n = 90_000;
    let images = npy("|u1", &format!("({n}, 784)"), &vec![0; n * PIXELS]);
    let labels = npy("|u1", &format!("({n},)"), &vec![0; n]);
    fs::write(path, zipped(&[("images.npy", &images), ("labels.npy", &labels)], Deflated)).unwrap();
    let with = |bytes| Dataset::open(Input { path, limit: Limit::Bytes(bytes) });
    let needed = (n * PIXELS) as u64;
    for (result, wanted) in [(Dataset::open(path), 64 << 20), (with(needed - 1), needed - 1)] {
        match result.map(|_| ()) {
            Err(Error::TooLarge { array, shape, needed: bytes, limit, .. }) => {
                assert_eq!(
                    (array.as_deref(), shape),
                    (Some("images"), vec![n, PIXELS]),
                    "the array"
                );
                assert_eq!((bytes, limit), (needed, wanted), "bytes needed and allowed");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(with(needed).unwrap().len(), n, "images");
    // Stored, they are as large in the file.
    fs::write(path, zipped(&[("images.npy", &images), ("labels.npy", &labels)], Stored)).unwrap();
    assert_eq!(Dataset::open(path).unwrap().len(), n, "images");
}

/// Whatever happens to a file, it is read or refused, in one line.
#[test]
fn no_npy_file_causes_a_panic() {
    let whole = npy("<f4", "(1, 28, 28)", &[0; 4 * PIXELS]);
    for i in 0..100 {
        let _ = read_npy(&whole[..i]);
        for value in [0, 1, 0x7f, 0xff, b'9', b'(', whole[i] ^ 1, whole[i] ^ 0x20] {
            let mut changed = whole.clone();
            changed[i] = value;
            let _ = read_npy(&changed);
        }
    }
}

#[test]
fn the_shuffle_is_numpys() {
    // numpy.random.RandomState(521).shuffle(numpy.arange(20)), NumPy 2.4
    let expected = [7, 6, 11, 3, 13, 5, 14, 1, 19, 4, 2, 16, 8, 9, 12, 0, 17, 10, 15, 18];
    assert_eq!(permutation(20, 521), expected);
    assert_eq!(permutation(0, 521), [0_u32; 0]);
    assert_eq!(permutation(1, 521), [0]);
}

/// A file that only the project's own machines have.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: needs {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn the_shuffle_is_the_studys() {
    let Some(path) = shared("golden/shuffle.npz") else { return };
    let mut zip = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    for (name, n, seed) in
        [("seed_521_n_18724.npy", 18_724, 521), ("seed_528_n_1000.npy", 1000, 528)]
    {
        let npy = npyz::NpyFile::new(zip.by_name(name).unwrap()).unwrap();
        let expected: Vec<i32> = npy.into_vec().unwrap();
        let actual: Vec<_> = permutation(n, seed).into_iter().map(|i| i as i32).collect();
        assert_eq!(actual, expected, "{name}");
    }
}

#[test]
fn the_studys_data_splits_as_the_study_split_it() {
    let Some(path) = shared("data/notMNIST.npz") else { return };
    let data = Dataset::open(&path).unwrap();
    assert_eq!((data.len(), data.classes), (18_724, 10));
    assert_eq!(permutation(data.len(), 521)[..5], [10525, 18681, 17765, 18421, 12834]);
    let split = data.split(None, Some(521)).unwrap();
    let counts = |samples: &Samples| {
        assert_eq!(samples.images.len(), samples.len() * PIXELS);
        let mut counts = [0; 10];
        samples.labels.iter().for_each(|&label| counts[label as usize] += 1);
        counts
    };
    assert_eq!(counts(&split.train), [1014, 1008, 974, 1053, 983, 1023, 951, 980, 1015, 999]);
    assert_eq!(counts(&split.valid), [597, 584, 619, 534, 609, 592, 664, 607, 600, 594]);
    assert_eq!(counts(&split.test), [261, 281, 280, 286, 281, 257, 257, 285, 257, 279]);
    // The data's README has the mean of the exact quotients; each float32 one is rounded, as
    // NumPy's `images / np.float32(255)` are, whose mean is the second figure.
    let mean = |value: fn(f32) -> f64| {
        split.train.images.iter().map(|&v| value(v)).sum::<f64>() / (10_000 * PIXELS) as f64
    };
    let exact = mean(|v| f64::from((v * 255.0).round())) / 255.0;
    assert!((exact - 0.42643180572).abs() < 1e-11, "mean {exact}");
    let rounded = mean(f64::from);
    assert!((rounded - 0.4264318077422808).abs() < 1e-13, "mean {rounded}");
}

#[test]
fn splits_take_what_they_are_told() {
    let n = 187; // 1 % of the study's
    let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    let images = npy("|u1", "(187, 784)", &pixels(n));
    let data = parse_arrays(&images, &npy("|u1", "(187,)", &labels)).unwrap();
    let sizes = |sizes, seed| {
        let split = data.split(sizes, seed).unwrap();
        (split.train.len(), split.valid.len(), split.test.len())
    };
    assert_eq!(sizes(None, Some(521)), (99, 59, 29));
    assert_eq!(sizes(Some((187, 0)), None), (187, 0, 0));
    assert_eq!(sizes(Some((0, 187)), None), (0, 187, 0));
    assert_eq!(sizes(Some((0, 0)), None), (0, 0, 187));

    // In the file's order, and in NumPy's.
    for (seed, order) in [(None, (0..187).collect()), (Some(3), permutation(n, 3))] {
        let split = data.split(Some((100, 50)), seed).unwrap();
        assert!(split.test.labels.len() == 37 && !split.test.is_empty());
        let parts = [&split.train, &split.valid, &split.test];
        let labels: Vec<_> = parts.iter().flat_map(|part| &part.labels).copied().collect();
        assert_eq!(labels, order.iter().map(|i| i % 10).collect::<Vec<_>>());
        let images: Vec<_> = parts.iter().flat_map(|part| &part.images).copied().collect();
        let bytes = pixels(n);
        let expected = order.iter().flat_map(|&i| scaled(&bytes[i as usize * PIXELS..][..PIXELS]));
        assert!(images.into_iter().eq(expected), "seed {seed:?}");
    }

    for (train, valid) in [(100, 88), (188, 0), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(
            data.split(Some((train, valid)), None).unwrap_err().to_string(),
            format!(
                "cannot take {train} images to train and {valid} to validate: some.npz has 187"
            )
        );
    }
    let torn = Dataset { labels: vec![0; 3], ..data };
    assert_eq!(
        torn.split(None, None).unwrap_err().to_string(),
        "some.npz: 146608 pixels for 3 labels"
    );
}

#[test]
fn weights_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.npz"), folder.path().join("b.npz"));
    let w: Vec<f32> = (0..6).map(|i| (i as f32).exp() * 1e-40).collect(); // subnormals too
    let arrays: [(&str, &[usize], &[f32]); 4] = [
        ("w_h", &[2, 3], &w),
        ("b_h", &[3], &[0.0, -0.0, f32::MAX]),
        ("scalar", &[], &[f32::NEG_INFINITY]),
        ("empty", &[0, 3], &[]),
    ];
    write_float_arrays(&a, &arrays).unwrap();
    write_float_arrays(&b, &arrays).unwrap();
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap(), "equal content, equal bytes");
    let read = read_float_arrays(&a, &["empty", "w_h", "scalar", "b_h"]).unwrap();
    for (read, i) in read.iter().zip([3, 0, 2, 1]) {
        let (name, shape, values) = arrays[i];
        assert_eq!((&read.shape[..], &read.values[..]), (shape, values), "{name}");
    }
    let nan = [f32::NAN];
    write_float_arrays(&a, &[("x", &[1], &nan)]).unwrap();
    assert!(read_float_arrays(&a, &["x"]).unwrap()[0].values[0].is_nan());
    assert_eq!(
        read_float_arrays(&a, &["w_h"]).unwrap_err().to_string(),
        format!("{}: array \"w_h\" is missing: the file holds \"x\"", a.display())
    );

    for (shape, text) in [(&[2, 2][..], "(2, 2)"), (&[usize::MAX, 2], "(18446744073709551615, 2)")]
    {
        let message = write_float_arrays(&a, &[("w", shape, &[1.0; 3])]).unwrap_err().to_string();
        let why = format!("array \"w\" has 3 values for shape {text}");
        assert_eq!(message, format!("{}: {why}", a.display()));
    }
}

#[test]
fn float_arrays_of_other_kinds_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.npz");
    let columns = [1.5_f64, 4.0, 2.0, 5.0, 3.0, 1e-3]; // of ((1.5, 2, 3), (4, 5, 0.001))
    for (descr, bytes) in both_orders!("f8", columns) {
        let integers = npy("<i8", "(1,)", &[0; 8]);
        let members: [(&str, &[u8]); 2] =
            [("w.npy", &npy_fortran(descr, "(2, 3)", &bytes)), ("i.npy", &integers)];
        fs::write(&path, zipped(&members, Deflated)).unwrap();
        let read = read_float_arrays(&path, &["w"]).unwrap();
        assert_eq!(read[0].shape, [2, 3]);
        assert_eq!(read[0].values, [1.5, 2.0, 3.0, 4.0, 5.0, 1e-3], "{descr}");
        assert_eq!(
            read_float_arrays(&path, &["w", "i"]).unwrap_err().to_string(),
            format!(
                "{}: array \"i\" has dtype '<i8': float32 and float64 are supported",
                path.display()
            )
        );
    }
}

#[test]
fn files_appear_at_once_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let names = || -> Vec<_> {
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let path = folder.path().join("history.csv");
    let failing = |file: &mut dyn Write| {
        file.write_all(&[0; 100_000])?;
        Err(io::Error::other("out of ideas"))
    };
    let message = write_atomically(&path, failing).unwrap_err().to_string();
    assert_eq!(message, format!("{}: out of ideas", path.display()));
    assert!(names().is_empty(), "{:?}", names());

    write_atomically(&path, |file| file.write_all(b"old")).unwrap();
    write_atomically(&path, failing).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    write_atomically(&path, |file| file.write_all(b"new")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(), ["history.csv"]);

    let nowhere = folder.path().join("none/history.csv");
    let message = write_atomically(&nowhere, |_| Ok(())).unwrap_err().to_string();
    assert_eq!(message, format!("{}: No such file or directory (os error 2)", nowhere.display()));
}

#[cfg(unix)]
#[test]
fn written_files_are_ordinary_ones() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let folder = tempfile::tempdir().unwrap();
    let [file, plain, link] = ["file", "plain", "link"].map(|name| folder.path().join(name));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(&plain, "").unwrap();
    write_atomically(&file, |file| file.write_all(b"1")).unwrap();
    assert_eq!(mode(&file), mode(&plain));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&file, &link).unwrap();
    write_atomically(&link, |file| file.write_all(b"2")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is still one");
    assert_eq!((fs::read(&file).unwrap(), mode(&file) & 0o777), (b"2".to_vec(), 0o640));

    // What is no file is never replaced: think of /dev/null. (A socket cannot be opened, either.)
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    write_atomically(&socket, |file| file.write_all(b"3")).unwrap_err();
    assert!(!fs::metadata(&socket).unwrap().is_file(), "the socket is still there");
}

#[test]
fn the_embedded_letters_load() {
    let data = Dataset::letters().unwrap();
    assert_eq!((data.classes, data.origin.as_str()), (10, "the embedded letters"));
    assert!(matches!(data.images, Images::U8(_)), "bytes, to keep the library small");
    for class in 0..10 {
        assert!(data.labels.contains(&class), "no letter of class {class}");
    }
    let split = data.split(None, Some(521)).unwrap();
    assert!(!split.train.is_empty() && !split.valid.is_empty() && !split.test.is_empty());
}
