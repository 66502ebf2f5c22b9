//! A mutator that knows `.npz` files: it takes the archive apart, changes a member (a name, a
//! header, the data) and writes it again, with the checksums and lengths that belong to it. Bytes
//! changed blindly would seldom get past the checksums.
//!
//! What it gives are whole files, so that a finding is a file that NumPy and the program can open.

use std::io::{Cursor, Read, Write};

use libfuzzer_sys::fuzzer_mutate;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::checkpoint;

/// Names that the loaders look for, and one that they ignore.
const NAMES: [&str; 21] = [
    "images",
    "labels",
    "w_h",
    "b_h",
    "w_o",
    "b_o",
    "w0",
    "b0",
    "w1",
    "b1",
    "w2",
    "b2",
    "running_mean",
    "running_variance",
    "checkpoint",
    "epoch",
    "history",
    "settings.epochs",
    "adam.v.w1",
    "best.epoch",
    "other",
];

/// Types that some array may have, and some that none may.
const DTYPES: [&str; 21] = [
    "<f4", "<f8", ">f4", ">f8", "|u1", "|i1", "|b1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8",
    ">u8", "<f2", "<c8", "|S3", "<U2", "|O", "<M8[s]", "=f4",
];

const FLOATS: [&str; 4] = ["<f4", "<f8", ">f4", ">f8"];
const INTEGERS: [&str; 8] = ["|u1", "|i1", "<i2", ">i2", "<u4", ">i4", "<i8", ">u8"];

/// More of a member is not read.
const MEMBER_MAX: u64 = 1 << 20;

struct Member {
    /// With `.npy`.
    name: String,
    bytes: Vec<u8>,
}

/// Changes the file in `data[..size]`, and returns its new length, at most `max_size`.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = StdRng::seed_from_u64(seed.into());
    let bytes = &data[..size];
    let file = match random.random_range(0..16) {
        // The bytes as they are: the zip layer itself.
        0 | 1 => None,
        2 => Some(write(&fresh(&mut random), &mut random)),
        3 => checkpoint::SMALL.choose(&mut random).and_then(|small| read(small)).map(
            |mut members| {
                change(&mut members, max_size, &mut random);
                write(&members, &mut random)
            },
        ),
        _ if bytes.starts_with(b"\x93NUMPY") => {
            let mut array = Member { name: "images.npy".into(), bytes: bytes.to_vec() };
            change_array(&mut array, max_size, &mut random);
            Some(array.bytes)
        }
        _ => read(bytes).map(|mut members| {
            change(&mut members, max_size, &mut random);
            write(&members, &mut random)
        }),
    };
    match file.filter(|file| file.len() <= max_size) {
        Some(file) => {
            data[..file.len()].copy_from_slice(&file);
            file.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
}

fn read(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut members = Vec::new();
    for index in 0..zip.len().min(100) {
        let file = zip.by_index(index).ok()?;
        let name = file.name().ok()?.into_owned();
        let mut bytes = Vec::new();
        // What cannot be read to its end is kept as far as it goes.
        let _ = file.take(MEMBER_MAX).read_to_end(&mut bytes);
        members.push(Member { name, bytes });
    }
    Some(members)
}

/// Stored or deflated; without the members whose names the writer refuses, such as a second of the
/// same.
fn write(members: &[Member], random: &mut StdRng) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let method = *[CompressionMethod::Stored, CompressionMethod::Deflated].choose(random).unwrap();
    let options = SimpleFileOptions::default().compression_method(method);
    for Member { name, bytes } in members {
        if zip.start_file(name.as_str(), options).is_ok() {
            zip.write_all(bytes).expect("memory takes what is written");
        }
    }
    zip.finish().expect("memory takes what is written").into_inner()
}

/// Changes one thing about the members.
fn change(members: &mut Vec<Member>, max_size: usize, random: &mut StdRng) {
    if members.is_empty() || random.random_range(0..8) == 0 {
        let name = *NAMES.choose(random).unwrap();
        let shape = some_shape(random);
        members.push(array(name, DTYPES.choose(random).unwrap(), &shape, random));
        return;
    }
    let at = random.random_range(0..members.len());
    match random.random_range(0..16) {
        0 => {
            members.remove(at);
        }
        1 => members[at].name = format!("{}.npy", NAMES.choose(random).unwrap()),
        2 => {
            let with = random.random_range(0..members.len());
            members.swap(at, with);
        }
        _ => change_array(&mut members[at], max_size, random),
    }
}

/// Changes the header or the data of an array.
fn change_array(member: &mut Member, max_size: usize, random: &mut StdRng) {
    let Some((text, data)) = parts(&member.bytes) else {
        mutate_vec(&mut member.bytes, max_size);
        return;
    };
    let (mut text, mut data) = (text.to_vec(), data.to_vec());
    match random.random_range(0..8) {
        0 => mutate_vec(&mut member.bytes, max_size),
        1 => {
            mutate_vec(&mut text, max_size);
            member.bytes = npy(random.random_range(1..=3), &text, &data);
        }
        2 => {
            let name = member.name.trim_end_matches(".npy").to_owned();
            let shape = some_shape(random);
            *member = array(&name, DTYPES.choose(random).unwrap(), &shape, random);
        }
        3 => {
            let shape = some_shape(random);
            let dtype = *DTYPES.choose(random).unwrap();
            member.bytes = npy(1, &header(dtype, random.random(), &shape), &data);
        }
        _ => {
            // The length stays what the header says.
            let len = data.len();
            mutate_vec(&mut data, len);
            data.resize(len, 0);
            member.bytes = npy(random.random_range(1..=3), &text, &data);
        }
    }
}

fn mutate_vec(bytes: &mut Vec<u8>, max_size: usize) {
    let size = bytes.len();
    if max_size == 0 {
        return;
    }
    bytes.resize(max_size.max(size), 0);
    let size = fuzzer_mutate(bytes, size, max_size.max(size));
    bytes.truncate(size);
}

/// A whole file of the kinds that are read, of any sizes, types and orders.
fn fresh(random: &mut StdRng) -> Vec<Member> {
    let mut few = |most: usize| random.random_range(1..=most);
    let (n, inputs, hidden, classes, channels, filters) =
        (few(3), few(4), few(3), few(4), few(2), few(2));
    let pooled = filters * [2, 14 * 14][few(2) - 1];
    let kind = few(3);
    let row = |len, random: &mut StdRng| if random.random() { vec![len] } else { vec![1, len] };
    let float = |random: &mut StdRng| *FLOATS.choose(random).unwrap();
    let mut members = Vec::new();
    let mut add = |name, dtype: &str, shape: &[usize], random: &mut StdRng| {
        members.push(array(name, dtype, shape, random));
    };
    match kind {
        1 => {
            let shapes = [vec![n, 28, 28], vec![n, 28, 28, 1], vec![n, 784]];
            let dtype = if random.random() { "|u1" } else { float(random) };
            add("images", dtype, shapes.choose(random).unwrap(), random);
            let dtype = *INTEGERS.choose(random).unwrap();
            let shape = if random.random() { vec![n] } else { vec![n, classes] };
            add("labels", dtype, &shape, random);
        }
        2 => {
            add("w_h", float(random), &[inputs, hidden], random);
            add("b_h", float(random), &row(hidden, random), random);
            add("w_o", float(random), &[hidden, classes], random);
            add("b_o", float(random), &row(classes, random), random);
        }
        _ => {
            add("w0", float(random), &[3, 3, channels, filters], random);
            add("b0", float(random), &row(filters, random), random);
            add("w1", float(random), &[pooled, hidden], random);
            add("b1", float(random), &row(hidden, random), random);
            add("w2", float(random), &[hidden, classes], random);
            add("b2", float(random), &row(classes, random), random);
            if random.random() {
                add("running_mean", float(random), &row(filters, random), random);
                add("running_variance", float(random), &row(filters, random), random);
            }
        }
    }
    members
}

fn some_shape(random: &mut StdRng) -> Vec<usize> {
    const EXTENTS: [usize; 12] = [0, 1, 1, 2, 2, 3, 4, 28, 28, 196, 784, usize::MAX];
    let axes = random.random_range(0..=4);
    let mut shape: Vec<_> = (0..axes).map(|_| *EXTENTS.choose(random).unwrap()).collect();
    if random.random_range(0..20) == 0 {
        shape.push(random.random_range(0..=usize::MAX));
    }
    shape
}

/// An array with as much data as its shape and type ask for, if that is not much.
fn array(name: &str, dtype: &str, shape: &[usize], random: &mut StdRng) -> Member {
    let len = shape.iter().try_fold(1_usize, |len, &n| len.checked_mul(n));
    let len = len.filter(|&len| len <= 1 << 14).unwrap_or(1);
    let row = shape.last().copied().unwrap_or(1).max(1);
    let one = random.random_range(0..row);
    let kind = random.random_range(0..4);
    let number = |at: usize| match kind {
        // A single 1 in every row.
        0 => f64::from(at % row == one),
        1 => (at % 10) as f64,
        2 => (at % 7) as f64 / 8.0,
        _ => 1.0 - (at % 3) as f64,
    };
    let mut data = Vec::new();
    for at in 0..len {
        data.extend(element(dtype, number(at)));
    }
    if random.random_range(0..16) == 0 && !data.is_empty() {
        // All ones is NaN, or the largest number of its type.
        let at = random.random_range(0..data.len());
        let end = data.len().min(at + 8);
        data[at..end].fill(0xff);
    }
    let text = header(dtype, random.random(), shape);
    Member { name: format!("{name}.npy"), bytes: npy(random.random_range(1..=3), &text, &data) }
}

fn element(dtype: &str, number: f64) -> Vec<u8> {
    let mut bytes = match &dtype[1..] {
        "f4" => (number as f32).to_le_bytes().to_vec(),
        "f8" => number.to_le_bytes().to_vec(),
        kind => {
            let len = kind[1..].parse().unwrap_or(8);
            (number as i64).to_le_bytes().into_iter().chain([0; 8]).take(len).collect()
        }
    };
    if dtype.starts_with('>') {
        bytes.reverse();
    }
    bytes
}

fn header(dtype: &str, fortran: bool, shape: &[usize]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
    format!("{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': ({extents}), }}").into()
}

/// The file of a header's text and data; the text padded as NumPy does.
fn npy(version: u8, text: &[u8], data: &[u8]) -> Vec<u8> {
    let head = if version == 1 { 10 } else { 12 };
    let padded = (head + text.len() + 1).next_multiple_of(64) - head;
    let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
    match version {
        1 => bytes.extend((padded as u16).to_le_bytes()),
        _ => bytes.extend((padded as u32).to_le_bytes()),
    }
    bytes.extend(text);
    bytes.resize(head + padded - 1, b' ');
    bytes.push(b'\n');
    bytes.extend(data);
    bytes
}

/// The text of the header, without its padding, and the data.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = if *bytes.get(6)? == 1 { 10 } else { 12 };
    let mut len = [0; 4];
    len[..head - 8].copy_from_slice(bytes.get(8..head)?);
    let (text, data) = bytes[head..].split_at_checked(u32::from_le_bytes(len) as usize)?;
    Some((text.trim_ascii_end(), data))
}
