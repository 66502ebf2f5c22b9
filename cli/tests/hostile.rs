//! Files made to do harm, and places where none can be written: each ends in one line and status 1, in
//! little time and memory. The table of what each got:
//!
//! ```text
//! cargo test --workspace --test hostile -- --nocapture
//! ```
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{assert_error, assert_success, folder_with_data, run, text};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zip::CompressionMethod::{self, Deflated, Stored};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const MIB: usize = 1 << 20;

/// What a run may take.
const TIME: Duration = Duration::from_secs(2);
const MEMORY: usize = 200 * MIB;

/// A member of an archive that ends in zeros. They are never all in memory: what a run takes is
/// counted from what this process has taken before it.
struct Content {
    begin: Vec<u8>,
    zeros: u64,
}

impl Content {
    fn write(&self, to: &mut impl Write) {
        let mut bytes = self.begin.chain(io::repeat(0).take(self.zeros));
        io::copy(&mut bytes, to).expect("the content is written");
    }

    /// As a file of its own.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }
}

/// An array as `numpy.save` writes it, its header as given, and behind it `data` and `zeros` zeros.
fn npy(descr: &str, shape: &str, data: &[u8], zeros: u64) -> Content {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let Content { begin, .. } = header(&text);
    Content { begin: [&begin[..], data].concat(), zeros }
}

fn header(text: &str) -> Content {
    let len = (text.len() as u16).to_le_bytes();
    Content { begin: [&b"\x93NUMPY\x01\x00"[..], &len, text.as_bytes()].concat(), zeros: 0 }
}

fn npz(method: CompressionMethod, arrays: &[(&str, Content)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(*name, options).expect("a member begins");
        array.write(&mut zip);
    }
    zip.finish().expect("an archive").into_inner()
}

/// `images` and a label for each of `n`, 0.
fn with_labels(method: CompressionMethod, images: Content, n: u64) -> Vec<u8> {
    npz(method, &[("images.npy", images), ("labels.npy", npy("|u1", &format!("({n},)"), &[], n))])
}

/// Where the headers with this signature begin.
fn headers(archive: &[u8], signature: &[u8; 4]) -> Vec<usize> {
    let windows = archive.windows(4).enumerate();
    windows.filter(|(_, bytes)| bytes == signature).map(|(at, _)| at).collect()
}

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";

/// The same archive with a field of a member's headers changed, in both places where it stands: at
/// `field` of the local header, and two bytes further on in the central one.
fn forged(mut archive: Vec<u8>, member: usize, field: usize, bytes: &[u8]) -> Vec<u8> {
    let local = headers(&archive, LOCAL)[member] + field;
    let central = headers(&archive, CENTRAL)[member] + field + 2;
    for at in [local, central] {
        archive[at..][..bytes.len()].copy_from_slice(bytes);
    }
    archive
}

// Where a local header has them.
const FLAGS: usize = 6;
const CHECKSUM: usize = 14;
const PACKED: usize = 18;
const UNPACKED: usize = 22;

/// An archive in which both members lie at the same place.
fn overlapping(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    let second = headers(&archive, CENTRAL)[1];
    archive[second + 42..][..4].fill(0);
    archive
}

/// Every occurrence of a name replaced by another of the same length.
fn renamed(mut archive: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    for at in 0..archive.len() - from.len() {
        if archive[at..].starts_with(from.as_bytes()) {
            archive[at..][..to.len()].copy_from_slice(to.as_bytes());
        }
    }
    archive
}

/// What Python runs when it unpickles this: `os.mkdir("pickled")`.
const PICKLE: &[u8] = b"cos\nmkdir\n(S'pickled'\ntR.";

/// Data sets, and what is said of them.
fn data() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let image = || npy("|u1", "(1, 28, 28)", &[], 784);
    let one = |method| with_labels(method, image(), 1);
    let far = (1_u32 << 30).to_le_bytes();
    let many: Vec<_> = (0..50_000).map(|n| format!("{n}.npy")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, header(""))).collect();
    let deep = format!("{{'descr': {}", "(".repeat(5000));
    let bomb = npy("<f8", "(20000, 784)", &[], 20_000 * 784 * 8);
    let nan = npy("<f8", "(10000, 784)", &f64::NAN.to_le_bytes(), 7_839_999 * 8);
    let billion = npy("|u1", "(1000000000,)", &[], 1_000_000_000);
    let pickled = npy("|O", "(1, 28, 28)", PICKLE, 0);
    let classes = npy("|u1", "(1, 100000)", &[1], 99_999);
    vec![
        ("nothing", Vec::new(), "not a whole .npz file"),
        ("text", b"images,labels\n0,0\n".to_vec(), "not a whole .npz file"),
        ("half a file", one(Stored)[..600].to_vec(), "not a whole .npz file"),
        ("a zip bomb", with_labels(Deflated, bomb, 20_000), "more than its limit of"),
        (
            "a billion labels, deflated",
            npz(Deflated, &[("images.npy", image()), ("labels.npy", billion)]),
            "labels",
        ),
        (
            "a header of a billion images",
            with_labels(Stored, npy("|u1", "(1000000000, 28, 28)", &[], 784), 1),
            "needs 784000000000 bytes",
        ),
        (
            "a shape that overflows",
            with_labels(Stored, npy("|u1", "(4611686018427387904, 28, 28)", &[], 784), 1),
            "overflows",
        ),
        (
            "a shape that overflows, then a zero",
            with_labels(Stored, npy("|u1", "(9223372036854775807, 28, 28, 0)", &[], 0), 1),
            "overflows",
        ),
        (
            "a negative shape",
            with_labels(Stored, npy("|u1", "(-1, 28, 28)", &[], 784), 1),
            "has a header",
        ),
        ("a header nested 5000 deep", with_labels(Stored, header(&deep), 1), "nested too deeply"),
        (
            "a header of 60,000 bytes",
            with_labels(Stored, header(&" ".repeat(60_000)), 1),
            "has a header of 60000 bytes",
        ),
        (
            "100,000 classes",
            npz(Stored, &[("images.npy", image()), ("labels.npy", classes)]),
            "65536",
        ),
        ("a size larger than the truth", forged(one(Deflated), 0, UNPACKED, &far), "1073741824"),
        ("a size smaller than the truth", forged(one(Deflated), 0, UNPACKED, &[9, 0]), "images"),
        ("a packed size beyond the next member", forged(one(Deflated), 0, PACKED, &far), "overlap"),
        (
            "a packed size beyond the file",
            forged(one(Deflated), 1, PACKED, &far),
            "more than the file",
        ),
        ("truncated deflate", forged(one(Deflated), 0, PACKED, &[20, 0]), "is damaged"),
        (
            "a wrong CRC",
            forged(one(Deflated), 0, CHECKSUM, &[1, 2, 3, 4]),
            "is damaged: Invalid checksum",
        ),
        ("an encrypted member", forged(one(Deflated), 0, FLAGS, &[1]), "Password required"),
        (
            "two arrays of the same name",
            renamed(one(Stored), "labels.npy", "images.npy"),
            "two arrays of the same name",
        ),
        ("members that overlap", overlapping(&one(Stored)), "overlap each other"),
        (
            "absolute names",
            npz(Stored, &[("/images.npy", image()), ("/labels.npy", npy("|u1", "(1,)", &[0], 0))]),
            "\"images\" is missing: the file holds \"/images\"",
        ),
        (
            "names that climb",
            npz(Stored, &[("../images.npy", image()), ("../../labels.npy", image())]),
            "\"images\" is missing: the file holds \"../images\"",
        ),
        ("50,000 members", npz(Stored, &many), "\"images\" is missing"),
        ("pickled objects", with_labels(Stored, pickled, 1), "never unpickled"),
        ("63 MB with a NaN", with_labels(Deflated, nan, 10_000), "NaN"),
    ]
}

/// Weights, and what is said of them.
fn weights() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let floats =
        |rows: u64, cols: u64| npy("<f4", &format!("({rows}, {cols})"), &[], rows * cols * 4);
    let mlp = |w_h, b_h, w_o, b_o| {
        npz(Deflated, &[("w_h.npy", w_h), ("b_h.npy", b_h), ("w_o.npy", w_o), ("b_o.npy", b_o)])
    };
    let many = 30_000;
    vec![
        (
            "weights that unpack to 94 MB",
            mlp(floats(784, many), floats(1, many), floats(many, 10), floats(1, 10)),
            "more than its limit of",
        ),
        (
            "59 MB of weights that fit no other",
            mlp(floats(784, 19_000), floats(1, 5), floats(19_000, 10), floats(1, 10)),
            "b_h",
        ),
        (
            "pickled weights",
            mlp(npy("|O", "(784, 5)", PICKLE, 0), floats(1, 5), floats(5, 10), floats(1, 10)),
            "never unpickled",
        ),
    ]
}

/// Weights in the other format, and what is said of them.
fn safetensors() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let file = |header: &str, zeros: usize| {
        let len = (header.len() as u64).to_le_bytes();
        [&len[..], header.as_bytes(), &vec![0; zeros]].concat()
    };
    let one = |shape: &str, end: &str, zeros| {
        let array = format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}");
        file(&format!("{{\"w_h\":{array}}}"), zeros)
    };
    vec![
        ("safetensors: nothing", Vec::new(), "not a whole .safetensors file"),
        ("safetensors: an archive", npz(Stored, &[]), "one with a header of"),
        ("safetensors: half a header", one("[1]", "4", 4)[..30].to_vec(), "it has 30 bytes"),
        ("safetensors: no JSON", file("images,labels", 0), "not a .safetensors file"),
        ("safetensors: 100,000 levels", file(&"{\"w_h\":".repeat(100_000), 0), "recursion limit"),
        ("safetensors: a billion weights", one("[1000000000]", "4000000000", 4), "calls for"),
        ("safetensors: a shape that overflows", one("[4611686018427387904,4]", "4", 4), "overflow"),
        ("safetensors: bytes of nobody's", one("[1]", "4", 5), "calls for"),
        (
            "safetensors: 100,000 axes",
            one(&format!("[{}1]", "1,".repeat(99_999)), "4", 4),
            "has 100000 axes",
        ),
        ("safetensors: 65 MB", one("[1,16250000]", "65000000", 65_000_000), "b_h"),
    ]
}

/// Images, and what is said of them.
fn images() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        (
            "a header of a billion images",
            npy("|u1", "(1000000000, 784)", &[], 784).bytes(),
            "784000000000",
        ),
        ("pickled images", npy("|O", "(1, 784)", PICKLE, 0).bytes(), "never unpickled"),
        ("an archive for an array", with_labels(Stored, header(""), 1), ".npy format"),
    ]
}

/// Command lines with places that cannot be read or written, and what is said of them.
const PLACES: [(&str, &str, &str); 14] = [
    ("a missing file", "train mlp --data none.npz", "No such file"),
    ("a folder", "train mlp --data .", "is a directory"),
    ("a pipe that nobody writes to", "train mlp --data pipe", "is no regular file"),
    ("a device without an end", "train mlp --data /dev/zero", "is no regular file"),
    ("endless images", "predict --model w.npz --images /dev/zero", ".npy format"),
    ("a link to itself", "train mlp --data loop", "loop"),
    ("a pipe that nobody reads", "QUICK --save pipe", "nobody reads from this pipe"),
    ("a link that leads nowhere", "QUICK --history nowhere", "is a link that leads nowhere"),
    ("a link to itself", "QUICK --save loop", "loop"),
    ("a folder", "QUICK --save .", "is a folder"),
    ("a folder that takes no files", "QUICK --save /proc/w.npz", "/proc"),
    ("a folder that cannot be made", "QUICK --out /proc/none/out", "/proc/none"),
    ("a file for a folder", "QUICK --save data.npz/w.npz", "data.npz"),
    ("a full device", "QUICK --history /dev/full", "No space left"),
];

const QUICK: &str = "train mlp --data data.npz --hidden 3 --epochs 1";

#[test]
fn files_made_to_do_harm_are_refused_in_one_line() {
    let folder = folder_with_data(20);
    let path = |name: &str| folder.path().join(name);
    mkfifo(&path("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    symlink("loop", path("loop")).expect("a link to itself");
    symlink("none/h.csv", path("nowhere")).expect("a link that leads nowhere");
    assert_success(&run(folder.path(), &format!("{QUICK} --save w.npz")));

    fs::write(path("i.npy"), npy("|u1", "(1, 784)", &[], 784).bytes()).expect("i.npy");

    println!("{:<36} {:>6}  said, with status 1", "what", "time");
    let check = |what: &str, line: &str, why: &str| {
        let begin = Instant::now();
        let output = run(folder.path(), line);
        let took = begin.elapsed();
        let stderr = text(&output.stderr);
        let errors: Vec<_> = stderr.lines().filter(|said| said.starts_with("error: ")).collect();
        println!("{what:<36} {:>3} ms  {}", took.as_millis(), errors.join("; "));
        assert!(errors.len() == 1 && stderr.ends_with(&format!("{}\n", errors[0])), "{stderr}");
        assert!(errors[0].contains(why), "{why:?} is not in {:?}", errors[0]);
        assert_eq!(output.status.code(), Some(1), "{what}: status");
        assert!(took < TIME, "{what} took {took:?}");
    };
    let kinds = [
        (data(), "train mlp --data F.npz"),
        (weights(), "predict --model F.npz --images i.npy"),
        (safetensors(), "predict --model F.safetensors --images i.npy"),
        (images(), "predict --model w.npz --images F.npz"),
    ];
    for (files, line) in kinds {
        let file = line.split(' ').find(|word| word.starts_with("F.")).expect("the file");
        for (what, bytes, why) in files {
            fs::write(path(file), bytes).expect("a file made to do harm");
            check(what, line, why);
        }
    }
    for (what, line, why) in PLACES {
        check(what, &line.replace("QUICK", QUICK), why);
    }

    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("what the runs have taken");
    let most = usage.max_rss() as usize * if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    println!("most memory that any of them took: {} MB", most / MIB);
    assert!(most < MEMORY, "a run took {} MB", most / MIB);
    assert!(!path("pickled").exists(), "a pickle was run");
    assert!(path("nowhere").is_symlink() && path("loop").is_symlink(), "a link was replaced");
    let left = fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(left, 8, "only what the test has made is left");
}

/// The limit is the user's to raise and to lower.
#[test]
fn the_limit_is_the_user_s() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let n = 11_000;
    let images = npy("<f8", &format!("({n}, 784)"), &[], n * 784 * 8);
    fs::write(folder.path().join("data.npz"), with_labels(Deflated, images, n)).expect("data.npz");
    let line = "train mlp --data data.npz --hidden 1 --epochs 0 --split 10,10";
    let why = ["68992000 bytes", "its limit of 67108864", "(--data-limit raises it)"];
    assert_error(&run(folder.path(), line), &why);
    assert_success(&run(folder.path(), &format!("{line} --data-limit 66MiB")));
    let small = format!("{QUICK} --split 10,10 --data-limit 1kB");
    assert_error(&run(folder.path(), &small), &["its limit of 1000"]);
    let output = run(folder.path(), &format!("{QUICK} --data-limit lots"));
    assert_eq!(output.status.code(), Some(2), "wrong usage");
}

/// A link is followed, and stays one.
#[test]
fn a_link_as_an_output_stays_one() {
    let folder = folder_with_data(20);
    let target = |name: &str| folder.path().join(name);
    fs::write(target("old.npz"), "old").expect("old.npz");
    symlink("old.npz", target("link.npz")).expect("a link");
    assert_success(&run(folder.path(), &format!("{QUICK} --save link.npz")));
    assert!(target("link.npz").is_symlink(), "the link is gone");
    let is_archive = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"PK"));
    assert!(is_archive(&target("old.npz")), "the target is as it was");
}
