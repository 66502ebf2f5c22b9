//! Weights in `.safetensors` files: the same as in `.npz`, or an error that names what is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use kernelet::Error;
use kernelet::data::npz::{Input, Limit};
use kernelet::kernels::relu_batch_norm::RunningMoments;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::weights::{array_names, load_cnn, load_mlp, save_cnn, save_mlp};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

const MLP: MlpShape = MlpShape { inputs: 2, hidden: 3, classes: 2 };
const CNN: CnnShape =
    CnnShape { height: 4, width: 6, channels: 1, filters: 2, hidden: 5, classes: 3 };

fn place(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    (folder, path)
}

/// A file of that header, and `data` bytes of zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let len = (header.len() as u64).to_le_bytes();
    [&len[..], header.as_bytes(), &vec![0; data]].concat()
}

/// What the loader says of a file, without its path.
fn refusal(bytes: &[u8]) -> String {
    let (_folder, path) = place("w.safetensors");
    fs::write(&path, bytes).expect("a small file");
    let message = load_mlp(&path).expect_err("it should be refused").to_string();
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    let path = format!("{}: ", path.display());
    message.strip_prefix(&path).expect("the message begins with the path").into()
}

#[test]
fn networks_survive_a_round_trip() {
    let (_folder, path) = place("w.safetensors");
    let mlp = Mlp::xavier(MLP, 1);
    save_mlp(&path, &mlp).expect("an MLP is saved");
    assert_eq!(load_mlp(&path).expect("an MLP is read"), mlp);
    let mut names = array_names(&path).expect("its names");
    names.sort();
    assert_eq!(names, ["b_h", "b_o", "w_h", "w_o"]);

    let cnn = Cnn::xavier(CNN, 1);
    let running = RunningMoments { mean: vec![1.0, -1e-40], variance: vec![0.5, 2.0] };
    for running in [None, Some(running)] {
        save_cnn(&path, &cnn, running.as_ref()).expect("a CNN is saved");
        let read = load_cnn(&path, 4, 6).expect("a CNN is read");
        assert_eq!(read, (cnn.clone(), running));
    }
    load_cnn(&path, 28, 28).expect_err("a CNN for other images");
}

#[test]
fn the_format_is_what_others_read() {
    let (_folder, path) = place("w.SafeTensors");
    let mlp = Mlp::xavier(MLP, 1);
    save_mlp(&path, &mlp).expect("an MLP is saved");
    let bytes = fs::read(&path).expect("the file");
    let tensors = SafeTensors::deserialize(&bytes).expect("its own library reads it");
    for (name, shape, values) in mlp.arrays() {
        let tensor = tensors.tensor(name).expect("an array");
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &shape[..]), "{name}");
        let values: Vec<_> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(tensor.data(), values, "{name}");
    }
    save_mlp(&path, &mlp).expect("an MLP is saved again");
    assert_eq!(fs::read(&path).expect("the file"), bytes, "equal content, equal bytes");
}

/// An MLP's arrays as others may write them.
fn written(dtype: Dtype, item: &[u8]) -> Vec<u8> {
    let arrays = Mlp::zeros(MLP).arrays().map(|(name, shape, values)| {
        let data = item.repeat(values.len());
        (name, shape, data)
    });
    let views = arrays.iter().map(|(name, shape, data)| {
        (*name, TensorView::new(dtype, shape.clone(), data).expect("an array"))
    });
    safetensors::serialize(views, None).expect("a file")
}

#[test]
fn doubles_are_rounded_and_other_types_refused() {
    let (_folder, path) = place("w.safetensors");
    fs::write(&path, written(Dtype::F64, &0.1_f64.to_le_bytes())).expect("a small file");
    let mlp = load_mlp(&path).expect("doubles are read");
    assert!(mlp.w_h.iter().chain(&mlp.b_o).all(|&value| value == 0.1), "{mlp:?}");

    let why = "array \"w_h\" has dtype F16: F32 and F64 are supported";
    assert_eq!(refusal(&written(Dtype::F16, &[0; 2])), why);
    let why = "array \"w_h\" is NaN at element 0";
    assert_eq!(refusal(&written(Dtype::F32, &f32::NAN.to_le_bytes())), why);
}

#[test]
fn files_that_are_none_are_refused() {
    let whole = written(Dtype::F32, &[0; 4]);
    for len in 0..whole.len() {
        refusal(&whole[..len]);
    }
    refusal(&[&whole[..], &[0]].concat());
    assert_eq!(refusal(b"short"), "not a whole .safetensors file: it has 5 bytes");
    let why = refusal(b"PK\x03\x04 an archive by another name");
    assert!(why.starts_with("not a .safetensors file, or one with a header of "), "{why}");
    assert!(why.ends_with("more than 1048576"), "{why}");
    for (header, data, why) in [
        ("[]", 0, "not a .safetensors file: invalid type"),
        ("{\"w_h\":", 0, "not a .safetensors file: EOF"),
        (&"{\"w_h\":".repeat(1000), 0, "not a .safetensors file: recursion limit"),
        ("{}", 0, "array \"w_h\" is missing: the file holds nothing"),
        ("{}", 1, "holds 11 bytes: its header calls for 10"),
        (
            r#"{"w_h":{"dtype":"a\nb","shape":[],"data_offsets":[0,4]}}"#,
            4,
            "not a .safetensors file: unknown variant `a?b`",
        ),
        (
            r#"{"w_h":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            4,
            "not a .safetensors file: invalid shape",
        ),
        (
            r#"{"w_h":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8,
            "not a .safetensors file: invalid offset for tensor `w_h`",
        ),
        (
            r#"{"w_h":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}"#,
            4,
            "not a .safetensors file: overflow",
        ),
        (
            r#"{"w_h":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#,
            4,
            "calls for 4000000082",
        ),
        (
            r#"{"w_h":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#,
            4,
            "array \"b_h\" is missing: the file holds \"w_h\"",
        ),
        (
            &format!(
                r#"{{"w_h":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#,
                "1,".repeat(100_000)
            ),
            4,
            "array \"w_h\" has 100001 axes, more than 64",
        ),
    ] {
        let said = refusal(&file(header, data));
        assert!(said.contains(why), "{why:?} is not in {said:?}");
    }
}

#[test]
fn an_array_may_take_no_more_than_its_limit() {
    let (_folder, path) = place("w.safetensors");
    save_mlp(&path, &Mlp::zeros(MLP)).expect("an MLP is saved");
    let load = |bytes| load_mlp(Input { path: &path, limit: Limit::Bytes(bytes) });
    load(24).expect("no array has more than 6 elements");
    let error = load(23).expect_err("w_h has 6 elements");
    assert!(
        matches!(&error, Error::TooLarge { array: Some(array), needed: 24, limit: 23, .. } if array == "w_h"),
        "{error}"
    );
}

#[test]
fn places_that_cannot_be_had_are_errors() {
    let nowhere = Path::new("no/such/folder/w.safetensors");
    assert!(matches!(load_mlp(nowhere), Err(Error::Io { .. })), "a file that is not there");
    assert!(
        matches!(save_mlp(nowhere, &Mlp::zeros(MLP)), Err(Error::Io { .. })),
        "a folder that is not there"
    );
    let (folder, path) = place("w.safetensors");
    fs::create_dir(&path).expect("a folder");
    assert!(matches!(load_mlp(&path), Err(Error::Io { .. })), "a folder for a file");
    assert_eq!(
        fs::read_dir(folder.path()).expect("the folder").count(),
        1,
        "nothing is left behind"
    );
}
