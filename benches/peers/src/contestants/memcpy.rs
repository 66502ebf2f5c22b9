//! What memory can do at most: half of a work's arrays copied over the other half.

use anyhow::Result;
use rayon::prelude::*;

use super::{Contestant, Inputs, Prepared, job};
use crate::works::Work;

/// Copies on so many threads.
pub struct Memcpy {
    threads: usize,
}

impl Memcpy {
    /// On `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { threads }
    }
}

impl Contestant for Memcpy {
    fn version(&self) -> String {
        "memcpy of the C library".into()
    }

    fn prepare(&self, work: &Work, _: &Inputs) -> Result<Prepared> {
        let Some(traffic) = work.traffic() else {
            return Ok(Prepared::Unsupported("It is not bound by memory."));
        };
        let half = traffic.arrays as usize / 2;
        let piece = half.div_ceil(self.threads).max(1);
        job(
            (vec![1_u8; half], vec![0_u8; half]),
            move |(from, to)| {
                let pieces = to.par_chunks_mut(piece).zip(from.par_chunks(piece));
                pieces.with_max_len(1).for_each(|(to, from)| to.copy_from_slice(from));
                Ok(())
            },
            |_| Ok(vec![]),
        )
    }
}
