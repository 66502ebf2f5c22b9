//! A trace of every span, as ui.perfetto.dev and Chrome read it.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use kernelet::Cpu;
use tracing::dispatcher::{Dispatch, with_default};
use tracing_chrome::ChromeLayerBuilder;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use super::recorder::listens_to;

/// Runs `body` and returns its result and the JSON of what it went through.
pub fn of<R: Send>(cpu: &Cpu, body: impl FnOnce() -> R + Send) -> (R, Vec<u8>) {
    let trace = Buffer::default();
    let result = cpu.install(|| {
        // Here, because the layer keeps its way out with the thread that built it.
        let (layer, writer) = ChromeLayerBuilder::new()
            .writer(trace.clone())
            .include_args(true)
            .include_locations(false)
            .build();
        let ours = filter_fn(|metadata| listens_to(metadata.target()));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(ours).with(layer));
        let result = with_default(&dispatch, body);
        drop(dispatch);
        // Waits until everything is written.
        drop(writer);
        result
    });
    (result, trace.take())
}

/// A file in memory, for a trace is short: it reaches the disk complete or not at all.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
