//! `kernelet info`: what the machine has and what it can do at most.

use std::fmt::Write;

use kernelet::{Error, Isa, peak};

use crate::args::InfoOptions;
use crate::{Done, output, train};

pub fn run(options: &InfoOptions) -> Result<Done, Error> {
    let cpu = train::cpu(options.threads)?;
    let available: Vec<_> = Isa::available().iter().map(Isa::to_string).collect();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "kernelet          {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "processor         {}", processor());
    let _ = writeln!(
        text,
        "instruction set   {} ({} lanes of f32; available: {})",
        cpu.isa(),
        cpu.isa().lanes(),
        available.join(", ")
    );
    let _ = writeln!(text, "threads           {}", cpu.threads());
    output::print(&text)?;

    let single = cpu.clone().with_threads(1)?;
    let mut text = String::new();
    let (one, all) = (peak::gflops(&single), peak::gflops(&cpu));
    let _ = writeln!(text, "multiply-adds     {one:.1} GFLOP/s on 1 thread, {all:.1} on all");
    let (one, all) = (peak::memory_gbytes(&single), peak::memory_gbytes(&cpu));
    let _ = writeln!(text, "memory, copying   {one:.1} GB/s on 1 thread, {all:.1} on all");
    output::print(&text)?;
    Ok(Done::Complete)
}

fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    if let Some(brand) = raw_cpuid::CpuId::new().get_processor_brand_string() {
        return brand.as_str().trim().to_owned();
    }
    std::env::consts::ARCH.to_owned()
}
