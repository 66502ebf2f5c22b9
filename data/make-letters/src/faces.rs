//! Finds the font faces under a folder and keeps those that hold ten letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path as FilePath,
};

use anyhow::{Context, Result, bail};
use tiny_skia::{Path, PathBuilder, PathSegment};
use ttf_parser::{GlyphId, OutlineBuilder, name_id};
use walkdir::WalkDir;

/// The letters of the data set, in the order of their labels.
pub const LETTERS: [char; 10] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J'];

/// Why a face was left out; the text is what the program prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The file, or the face in it, is not a font that can be read.
    Unreadable,
    /// The names or the panose classification say symbols, ornaments, a barcode and so on.
    Symbol,
    /// The character map lacks one of the letters A to J.
    NoLetters,
    /// A letter has no outline, or two letters share one.
    NotDistinct,
    /// Another face, earlier in the order, has the very same ten outlines.
    Twin,
    /// The hand list names it.
    Listed,
    /// Its letters do not look like the letters of the other faces.
    Consensus,
}

impl Reason {
    /// A line for the report.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read as a font",
            Self::Symbol => "symbol, ornament, barcode or pictorial by name or classification",
            Self::NoLetters => "no glyphs for A to J in the character map",
            Self::NotDistinct => "a letter without an outline, or two letters with the same one",
            Self::Twin => "the same ten outlines as another face",
            Self::Listed => "listed by hand in dropped.txt",
            Self::Consensus => "letters unlike those of the other faces",
        }
    }
}

/// A face with its ten letters.
pub struct Face {
    /// Path of the file below the fonts folder with `/` between its parts, plus `#n` for the
    /// faces after the first in a collection.
    pub path: String,
    /// The family's name without the words for style, weight and size.
    pub family: String,
    /// The outlines of A to J in font units, y down.
    pub glyphs: [Path; 10],
}

/// What was found: the faces in order of their paths, and those dropped with the reason.
pub struct Found {
    /// The faces kept.
    pub faces: Vec<Face>,
    /// The path of each face dropped so far, with its reason.
    pub dropped: Vec<(String, Reason)>,
}

/// Reads the hand list: one path per line, a tab, the reason; `#` begins a comment. A path that
/// ends in `*` stands for all the paths that begin with what is before it.
///
/// # Errors
/// If a line has no reason.
pub fn parse_hand_list(text: &str) -> Result<Vec<String>> {
    let mut list = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('\t') {
            Some((path, why)) if !path.is_empty() && !why.trim().is_empty() => {
                list.push(path.to_owned());
            }
            _ => bail!("dropped.txt, line {}: not a path, a tab and a reason", number + 1),
        }
    }
    Ok(list)
}

fn is_listed(list: &[String], path: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == entry,
    })
}

/// Finds every face of the `.ttf`, `.otf`, `.ttc` and `.otc` files below `root`.
///
/// # Errors
/// If the folder or a file in it cannot be read, or holds no face at all.
pub fn find(root: &FilePath, hand_list: &[String]) -> Result<Found> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(root) {
        let entry = entry.with_context(|| format!("cannot walk {}", root.display()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let ends = entry.path().extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        if !matches!(ends.as_deref(), Some("ttf" | "otf" | "ttc" | "otc")) {
            continue;
        }
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let Some(parts) = below.iter().map(|p| p.to_str()).collect::<Option<Vec<_>>>() else {
            bail!("{}: the path is not UTF-8", entry.path().display());
        };
        files.insert(parts.join("/"), entry.path().to_path_buf());
    }
    if files.is_empty() {
        bail!("{}: no .ttf, .otf, .ttc or .otc file below it", root.display());
    }
    let mut found = Found { faces: Vec::new(), dropped: Vec::new() };
    let mut outlines_seen = BTreeSet::new();
    for (path, file) in &files {
        let data = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let count = ttf_parser::fonts_in_collection(&data).unwrap_or(1);
        for index in 0..count {
            let path = if index == 0 { path.clone() } else { format!("{path}#{index}") };
            if is_listed(hand_list, &path) {
                found.dropped.push((path, Reason::Listed));
                continue;
            }
            match read_face(&data, index, &path) {
                Ok(face) => {
                    if outlines_seen.insert(fingerprint(&face.glyphs)) {
                        found.faces.push(face);
                    } else {
                        found.dropped.push((path, Reason::Twin));
                    }
                }
                Err(reason) => found.dropped.push((path, reason)),
            }
        }
    }
    Ok(found)
}

/// The ten outlines in thousandths of the height of the H, so that the OpenType and the TrueType
/// edition of one face that differ by scale alone are twins.
fn fingerprint(glyphs: &[Path; 10]) -> Vec<i32> {
    let unit = glyphs[7].bounds().height().max(1e-3) / 1000.0;
    let mut print = Vec::new();
    for glyph in glyphs {
        for segment in glyph.segments() {
            let (kind, points): (i32, Vec<tiny_skia::Point>) = match segment {
                PathSegment::MoveTo(p) => (0, vec![p]),
                PathSegment::LineTo(p) => (1, vec![p]),
                PathSegment::QuadTo(p, q) => (2, vec![p, q]),
                PathSegment::CubicTo(p, q, r) => (3, vec![p, q, r]),
                PathSegment::Close => (4, vec![]),
            };
            print.push(kind);
            for p in points {
                print.push((p.x / unit).round() as i32);
                print.push((p.y / unit).round() as i32);
            }
        }
    }
    print
}

fn read_face(data: &[u8], index: u32, path: &str) -> Result<Face, Reason> {
    let face = ttf_parser::Face::parse(data, index).map_err(|_| Reason::Unreadable)?;
    let name = |id: u16| {
        face.names()
            .into_iter()
            .filter(|n| n.name_id == id && n.is_unicode())
            .find_map(|n| n.to_string())
    };
    let stem = path.rsplit('/').next().unwrap_or(path);
    let stem = stem.split('.').next().unwrap_or(stem).to_owned();
    let family = name(name_id::TYPOGRAPHIC_FAMILY)
        .or_else(|| name(name_id::FAMILY))
        .unwrap_or_else(|| stem.clone());
    let full = name(name_id::FULL_NAME).unwrap_or_default();
    if names_symbols(&family) || names_symbols(&full) || names_symbols(&stem) {
        return Err(Reason::Symbol);
    }
    // Panose: family kind 5 is "Latin symbol".
    let os2 = face.raw_face().table(ttf_parser::Tag::from_bytes(b"OS/2"));
    if os2.and_then(|t| t.get(32)) == Some(&5) {
        return Err(Reason::Symbol);
    }
    let mut ids = Vec::with_capacity(10);
    for letter in LETTERS {
        match face.glyph_index(letter) {
            Some(id) if id != GlyphId(0) => ids.push(id),
            _ => return Err(Reason::NoLetters),
        }
    }
    let mut glyphs = Vec::with_capacity(10);
    for id in ids {
        let mut pen = Pen(PathBuilder::new());
        if face.outline_glyph(id, &mut pen).is_none() {
            return Err(Reason::NotDistinct);
        }
        let glyph = pen.0.finish().ok_or(Reason::NotDistinct)?;
        let bounds = glyph.bounds();
        if !(bounds.width() > 0.0 && bounds.height() > 0.0) || glyphs.contains(&glyph) {
            return Err(Reason::NotDistinct);
        }
        glyphs.push(glyph);
    }
    let glyphs = <[Path; 10]>::try_from(glyphs).map_err(|_| Reason::NoLetters)?;
    Ok(Face { path: path.to_owned(), family: family_key(&family, &stem), glyphs })
}

/// Words in a name that say that the face holds no letters, or letters in a disguise.
fn names_symbols(name: &str) -> bool {
    const WORDS: [&str; 34] = [
        "symbol",
        "dingbat",
        "ornament",
        "barcode",
        "code39",
        "code128",
        "emoji",
        "icon",
        "awesome",
        "pictogram",
        "music",
        "chess",
        "braille",
        "runic",
        "runes",
        "dice",
        "arrows",
        "hieroglyph",
        "cuneiform",
        "tengwar",
        "cirth",
        "klingon",
        "webfont-icons",
        "fleuron",
        "border",
        "frames",
        "smiley",
        "astro",
        "zodiac",
        "phonet",
        "keyboard",
        "mathext",
        "greek",
        "wingding",
    ];
    let name = name.to_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// The family without what tells its members apart: style, weight, width, optical size.
fn family_key(family: &str, stem: &str) -> String {
    const STYLES: [&str; 40] = [
        "regular",
        "roman",
        "italic",
        "oblique",
        "slanted",
        "upright",
        "bold",
        "semibold",
        "demibold",
        "extrabold",
        "ultrabold",
        "light",
        "extralight",
        "ultralight",
        "semilight",
        "thin",
        "hairline",
        "medium",
        "book",
        "black",
        "heavy",
        "ultra",
        "extra",
        "semi",
        "demi",
        "condensed",
        "cond",
        "narrow",
        "extended",
        "wide",
        "compressed",
        "display",
        "caption",
        "subhead",
        "text",
        "std",
        "pro",
        "otf",
        "ttf",
        "std",
    ];
    // Families whose members carry the style and size inside one word.
    const WHOLE: [&str; 3] = ["drm", "cmu", "punk"];
    let mut key = String::new();
    for word in family.to_lowercase().split(|c: char| !c.is_alphabetic()) {
        if !STYLES.contains(&word) && word.len() > 1 {
            key.push_str(word);
        }
    }
    if let Some(whole) = WHOLE.iter().find(|w| key.starts_with(**w)) {
        return (*whole).to_owned();
    }
    if key.is_empty() { stem.to_lowercase() } else { key }
}

/// Draws a glyph into a path, the y axis turned down.
struct Pen(PathBuilder);

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, -y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, -y);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.0.quad_to(x1, -y1, x, -y);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.0.cubic_to(x1, -y1, x2, -y2, x, -y);
    }
    fn close(&mut self) {
        self.0.close();
    }
}
