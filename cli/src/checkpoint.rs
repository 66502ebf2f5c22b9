//! `--checkpoint` and `--resume`: what a checkpoint says of the command line, and when one is
//! written.

use std::path::{Path, PathBuf};

use kernelet::Error;
use kernelet::data::Split;
use kernelet::train::checkpoint::{About, fingerprint};
use serde::{Deserialize, Serialize};

use crate::args::{SplitSeed, TrainOptions};
use crate::interrupt;
use crate::output::complain;
use crate::run::{Run, Seconds};

/// The options of a run that its settings do not tell, and how long it has taken.
#[derive(Clone, Serialize, Deserialize)]
struct Note {
    /// The version that wrote it.
    kernelet: String,
    data: Option<PathBuf>,
    split: Option<(usize, usize)>,
    split_seed: Option<u32>,
    seed: u64,
    init: Option<PathBuf>,
    instruction_set: String,
    seconds: Seconds,
}

/// A run that is resumed: where it was, and what its checkpoint tells of it.
pub struct Resumed {
    path: PathBuf,
    data: [u8; 32],
    note: Note,
}

impl Resumed {
    /// Takes the options of the run that is resumed, where they are not given anew.
    pub fn new(path: &Path, about: &About, options: &mut TrainOptions) -> Result<Self, Error> {
        let note: Note = serde_json::from_str(&about.note).map_err(|e| Error::File {
            path: path.into(),
            why: format!("is not of this program: its note cannot be read: {e}"),
        })?;
        let data = &mut options.data;
        data.path = data.path.take().or_else(|| note.data.clone());
        (data.split, data.split_seed) = (note.split, SplitSeed(note.split_seed));
        (options.seed, options.init) = (note.seed, note.init.clone());
        Ok(Self { path: path.into(), data: about.data, note })
    }

    /// How long the run has taken so far.
    pub fn seconds(&self) -> Seconds {
        self.note.seconds
    }
}

/// Writes the checkpoints of a run, if any are asked for.
pub struct Checkpoints {
    path: Option<PathBuf>,
    every: usize,
    epochs: usize,
    data: [u8; 32],
    note: Note,
}

impl Checkpoints {
    /// Of a run on `split`, which must be the one that a resumed run began with.
    pub fn new(run: &Run, split: &Split, resumed: Option<&Resumed>) -> Result<Self, Error> {
        let options = run.options;
        let isa = run.cpu.isa().to_string();
        let path = options.checkpoint.clone();
        let needed = path.is_some() || resumed.is_some();
        let data = if needed { fingerprint(split) } else { [0; 32] };
        if let Some(Resumed { path, data: begun_with, note }) = resumed {
            if *begun_with != data {
                let origin = &run.origin;
                let why = format!("is of a run on other data than {origin}, or split otherwise");
                return Err(Error::File { path: path.clone(), why });
            }
            if note.instruction_set != isa {
                complain(&format!(
                    "The run was made on {} so far and goes on on {isa}: its last bits will not be \
                     those of a run that was never stopped.\n",
                    note.instruction_set
                ));
            }
        }
        let note = Note {
            kernelet: env!("CARGO_PKG_VERSION").into(),
            data: options.data.path.clone(),
            split: options.data.split,
            split_seed: options.data.split_seed.0,
            seed: options.seed,
            init: options.init.clone(),
            instruction_set: isa,
            seconds: Seconds::default(),
        };
        Ok(Self { path, every: options.checkpoint_every, epochs: run.network.epochs(), data, note })
    }

    /// Calls `save`, if it is time to after so many epochs and seconds.
    pub fn keep(
        &mut self,
        epoch: usize,
        seconds: Seconds,
        save: impl FnOnce(&Path, &About) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let due = epoch.is_multiple_of(self.every) || epoch == self.epochs || interrupt::asked();
        if !due {
            return Ok(());
        }
        self.note.seconds = seconds;
        let note = serde_json::to_string(&self.note)
            .map_err(|e| Error::Setting(format!("the options cannot be kept: {e}")))?;
        save(path, &About { data: self.data, note })
    }
}
