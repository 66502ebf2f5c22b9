//! Checkpoints: small ones for the mutator to begin with, and the checksum that their bytes need.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use kernelet::data::{Samples, Split};
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::checkpoint::{About, fingerprint, save_cnn, save_mlp};
use kernelet::train::{cnn, mlp};
use kernelet::{Cpu, Isa};
use sha2::{Digest, Sha256};

/// Those of an MLP and of a CNN, with all that a checkpoint can have.
pub static SMALL: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.npz");
    let cpu = Cpu::with_isa(Isa::Scalar).and_then(|cpu| cpu.with_threads(1)).expect("a processor");
    let bytes = |path: &Path| fs::read(path).expect("what has just been written");

    let shape = CnnShape { channels: 1, filters: 2, hidden: 3, ..CnnShape::study(3, 2) };
    let shape = CnnShape { height: 2, width: 3, ..shape };
    let samples = || Samples { images: vec![0.5; 4 * shape.pixels()], labels: vec![0, 1, 1, 0] };
    let split = Split { train: samples(), valid: samples(), test: samples(), classes: 2 };
    let about = About { data: fingerprint(&split), note: "{}".into() };

    let settings = mlp::Settings { epochs: 2, patience: Some(2), ..mlp::Settings::default() };
    let shape_of_mlp = MlpShape { inputs: shape.pixels(), hidden: 3, classes: 2 };
    let (mut network, mut state) = (Mlp::xavier(shape_of_mlp, 1), mlp::State::new(shape_of_mlp));
    let observe = &mut |_: &_| ControlFlow::Continue(());
    mlp::resume(&cpu, &settings, &split, &mut network, &mut state, observe, &mut |_, _| Ok(()))
        .expect("valid settings");
    save_mlp(&path, &about, &settings, &network, &state).expect("space for a small file");
    let of_mlp = bytes(&path);

    let settings = cnn::Settings { epochs: 2, patience: Some(2), ..cnn::Settings::default() };
    let (mut network, mut state) = (Cnn::xavier(shape, 1), cnn::State::new(shape));
    let observe = &mut |_: cnn::Event| ControlFlow::Continue(());
    cnn::resume(&cpu, &settings, &split, &mut network, &mut state, observe, &mut |_, _| Ok(()))
        .expect("valid settings");
    save_cnn(&path, &about, &settings, &network, &state).expect("space for a small file");
    [of_mlp, bytes(&path)]
});

/// An archive without a comment as a checkpoint: with the checksum of its bytes for a comment.
pub fn sealed(archive: &[u8]) -> Option<Vec<u8>> {
    // What ends an archive: a signature, 16 bytes, and the length of the comment.
    let end = archive.len().checked_sub(22)?;
    if !archive[end..].starts_with(b"PK\x05\x06") || !archive.ends_with(&[0, 0]) {
        return None;
    }
    let mut sealed = archive.to_vec();
    sealed[end + 20..].copy_from_slice(&64_u16.to_le_bytes());
    let checksum: String =
        Sha256::digest(&sealed).iter().map(|byte| format!("{byte:02x}")).collect();
    sealed.extend(checksum.as_bytes());
    Some(sealed)
}
