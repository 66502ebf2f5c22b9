//! Finished parts of a long run, kept in files: what was interrupted goes on where it stopped.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kernelet::data::npz::write_atomically;
use kernelet::{Cpu, Error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::info;

/// A folder of finished parts, or none: then nothing is kept and nothing found.
pub struct Parts {
    folder: Option<PathBuf>,
    /// Whether what earlier runs have kept counts.
    resume: bool,
}

/// What a file of the folder holds.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    /// Everything that decides the result: a part with another key is another part.
    key: Value,
    made: Made,
    result: T,
}

/// When, by what and on what a part was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The time it was finished, UTC.
    pub at: String,
    pub commit: String,
    pub processor: String,
    pub instruction_set: String,
    pub threads: usize,
}

impl Made {
    pub fn now(cpu: &Cpu) -> Self {
        Self {
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: env!("KERNELET_COMMIT").to_owned(),
            processor: info::processor(),
            instruction_set: cpu.isa().to_string(),
            threads: cpu.threads(),
        }
    }
}

impl Parts {
    /// Parts in `folder`, which is made if it is not there.
    pub fn new(folder: Option<&Path>, resume: bool) -> Result<Self, Error> {
        if let Some(folder) = folder {
            fs::create_dir_all(folder)
                .map_err(|source| Error::Io { path: folder.into(), source })?;
        }
        Ok(Self { folder: folder.map(Into::into), resume })
    }

    /// Where a part's file of this ending is.
    pub fn path(&self, name: &str, ending: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{name}.{ending}")))
    }

    /// What an earlier run has kept under this name and key. A file that cannot be read, or is of
    /// another run, is as good as none: it will be replaced.
    pub fn find<T: DeserializeOwned>(&self, name: &str, key: &Value) -> Option<(T, Made)> {
        let path = self.path(name, "json").filter(|_| self.resume)?;
        let kept: Kept<T> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (kept.key == *key).then_some((kept.result, kept.made))
    }

    /// Forgets a part that is about to be made anew: what else is kept of it would be another run's.
    pub fn forget(&self, name: &str) -> Result<(), Error> {
        match self.path(name, "json").map(|path| (fs::remove_file(&path), path)) {
            Some((Err(source), path)) if source.kind() != ErrorKind::NotFound => {
                Err(Error::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Keeps a finished part.
    pub fn keep<T: Serialize>(
        &self,
        name: &str,
        key: &Value,
        made: &Made,
        result: &T,
    ) -> Result<(), Error> {
        let Some(path) = self.path(name, "json") else { return Ok(()) };
        let kept = Kept { key: key.clone(), made: made.clone(), result };
        write_atomically(&path, |to| {
            serde_json::to_writer_pretty(&mut *to, &kept)?;
            to.write_all(b"\n")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_found_again_under_its_key_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Made::now(&Cpu::detect().expect("a processor"));
        let parts = Parts::new(Some(folder.path()), true).expect("the folder can be written");
        // A number that parsing rounds wrongly unless it takes care.
        let result = vec![1.0e-5_f32 as f64, 0.1 + 0.2, 1.115_072_865_681_324_7e-7];
        parts.keep("a", &json!({"seed": 1}), &made, &result).expect("it is kept");
        let found = parts.find("a", &json!({"seed": 1}));
        assert_eq!(found, Some((result, made.clone())), "the same part");
        assert_eq!(parts.find::<Vec<f64>>("a", &json!({"seed": 2})), None, "another seed");
        assert_eq!(parts.find::<Vec<f64>>("b", &json!({"seed": 1})), None, "another name");
        parts.forget("a").expect("it is forgotten");
        parts.forget("a").expect("it need not be there");
        assert_eq!(parts.find::<Vec<f64>>("a", &json!({"seed": 1})), None, "forgotten");
        parts.keep("a", &json!({"seed": 1}), &made, &0).expect("it is kept again");
        let fresh = Parts::new(Some(folder.path()), false).expect("the folder can be written");
        assert_eq!(fresh.find::<i32>("a", &json!({"seed": 1})), None, "all anew");
    }

    #[test]
    fn a_damaged_part_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let parts = Parts::new(Some(folder.path()), true).expect("the folder can be written");
        for text in ["", "{", "[]", "{\"key\": 1, \"result\": []}"] {
            fs::write(folder.path().join("a.json"), text).expect("the file is written");
            assert_eq!(parts.find::<Vec<f64>>("a", &json!(1)), None, "{text:?} is no part");
        }
    }
}
