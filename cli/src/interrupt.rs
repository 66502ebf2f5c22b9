//! Ctrl-C: the first one asks the run to stop training and save, the second ends it at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use kernelet::Error;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Status of a run that was interrupted, as a shell reports a program ended by SIGINT.
pub const STATUS: u8 = 130;

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes over SIGINT and SIGTERM; SIGHUP is left alone, so that `nohup` keeps its meaning.
pub fn listen() -> Result<(), Error> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal must not find its own mark.
        flag::register_conditional_shutdown(signal, STATUS.into(), ASKED.clone())
            .and_then(|_| flag::register(signal, ASKED.clone()))
            .map_err(|e| Error::Setting(format!("cannot listen for signal {signal}: {e}")))?;
    }
    Ok(())
}

/// Whether the run has been asked to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// What an observer of a training run returns: to end it if that has been asked for.
pub fn flow() -> ControlFlow<()> {
    if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
