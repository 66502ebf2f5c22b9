//! Chooses the glyphs, renders the images and writes the archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Cursor, Write},
    path::Path as FilePath,
};

use anyhow::{Context, Result, bail};
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use crate::{
    faces::{Face, LETTERS},
    judge::Verdict,
    render::{Dice, Image, Look, SIDE, draw},
};

/// Images per letter, A to J.
pub const COUNTS: [usize; 10] = [1872, 1873, 1873, 1873, 1873, 1872, 1872, 1872, 1872, 1872];
/// Everything random comes from this.
const SEED: u64 = 0x6b65_726e_656c_6574;
/// A family gives no more faces than this to one letter.
const FAMILY_FACES: usize = 14;

/// One image with the face that it shows.
pub struct Sample {
    /// The pixels.
    pub image: Image,
    /// The label, 0 for A.
    pub label: u8,
    /// Index of the face.
    pub face: usize,
}

/// Renders the images of all ten letters, all A first.
///
/// # Errors
/// If a letter is left without faces or does not give enough different images.
pub fn render(faces: &[Face], verdicts: &[Verdict]) -> Result<Vec<Sample>> {
    let mut samples = Vec::with_capacity(COUNTS.iter().sum());
    let mut seen = BTreeSet::new();
    for (letter, &count) in COUNTS.iter().enumerate() {
        let mut usable: Vec<usize> = (0..faces.len())
            .filter(|&f| verdicts[f].keeps() && verdicts[f].keeps_letter(letter))
            .collect();
        let mut dice = Dice::new(SEED ^ (letter as u64 + 1));
        dice.shuffle(&mut usable);
        let mut of_family: BTreeMap<&str, usize> = BTreeMap::new();
        usable.retain(|&f| {
            let used = of_family.entry(&faces[f].family).or_insert(0);
            *used += 1;
            *used <= FAMILY_FACES
        });
        if usable.is_empty() {
            bail!("letter {}: no face has a usable glyph for it", LETTERS[letter]);
        }
        let mut made = 0;
        // The faces in turn, each time with another look, until there are enough.
        for turn in 0..count * 20 {
            if made == count {
                break;
            }
            let face = usable[turn % usable.len()];
            let look = Look::random(&mut dice);
            let Some(image) = draw(&faces[face].glyphs[letter], &look, &mut dice) else {
                continue;
            };
            if seen.insert(image) {
                samples.push(Sample { image, label: letter as u8, face });
                made += 1;
            }
        }
        if made < count {
            bail!("letter {}: {made} different images, {count} needed", LETTERS[letter]);
        }
    }
    Ok(samples)
}

/// Writes `images` and `labels` as a compressed `.npz`.
///
/// # Errors
/// If the archive cannot be made or the file not written.
pub fn write(samples: &[Sample], path: &FilePath) -> Result<()> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    let count = samples.len();
    let images = samples.iter().flat_map(|s| s.image).collect::<Vec<u8>>();
    let labels = samples.iter().map(|s| s.label).collect::<Vec<u8>>();
    let members = [
        ("images.npy", format!("({count}, {SIDE}, {SIDE})"), images),
        ("labels.npy", format!("({count},)"), labels),
    ];
    for (name, shape, data) in members {
        zip.start_file(name, options).context("cannot begin a member of the archive")?;
        zip.write_all(&npy_header(&shape)).context("cannot write a header")?;
        zip.write_all(&data).with_context(|| format!("cannot write {name}"))?;
    }
    let archive = zip.finish().context("cannot finish the archive")?.into_inner();
    fs::write(path, archive).with_context(|| format!("cannot write {}", path.display()))
}

/// The header of a `.npy` file of version 1.0 with unsigned bytes, 128 bytes long.
fn npy_header(shape: &str) -> Vec<u8> {
    let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
    let mut header = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    header.extend_from_slice(text.as_bytes());
    header.resize(127, b' ');
    header.push(b'\n');
    header
}
