//! Ctrl-C: the first one asks the run to finish its epoch and save, the second ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use kernelet::Error;

use crate::output;

/// Status of a run that was interrupted, as a shell reports a program ended by SIGINT.
pub const STATUS: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes over SIGINT, SIGTERM and SIGHUP.
pub fn listen() -> Result<(), Error> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(STATUS.into());
        }
        output::complain("\nFinishing this epoch, then saving. Once more ends it at once.\n");
    })
    .map_err(|e| Error::Setting(format!("cannot listen for Ctrl-C: {e}")))
}

/// Whether the run has been asked to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
