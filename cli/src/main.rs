//! The `kernelet` program; all of it is in the library beside this.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use kernelet::allocator::Aligned;

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

fn main() -> ExitCode {
    kernelet_cli::main()
}
