//! `kernelet info`: what the machine has and what it can do at most.

use std::fmt::Write;

use kernelet::{Cpu, Error, Isa, peak};

use crate::args::InfoOptions;
use crate::{Done, output};

/// Prints what is known at once, then what has to be measured.
pub fn run(options: &InfoOptions) -> Result<Done, Error> {
    let cpu = options.threads.cpu()?;
    let available: Vec<_> = Isa::available().iter().map(Isa::to_string).collect();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "kernelet          {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "processor         {}", processor());
    let _ = writeln!(
        text,
        "instruction set   {} ({} of f32; available: {})",
        cpu.isa(),
        output::count(cpu.isa().lanes(), "lane"),
        available.join(", ")
    );
    let _ = writeln!(text, "threads           {}", cpu.threads());
    output::print(&text)?;

    let single = cpu.clone().with_threads(1)?;
    let all = (cpu.threads() > 1).then_some(&cpu);
    let row = |name: &str, unit: &str, measure: fn(&Cpu) -> f64| {
        let mut row = format!("{name:18}{:.1} {unit} on 1 thread", measure(&single));
        if let Some(all) = all {
            // Writing to a string cannot fail.
            let _ = write!(row, ", {:.1} on {}", measure(all), all.threads());
        }
        output::print(&(row + "\n"))
    };
    row("multiply-adds", "GFLOP/s", peak::gflops)?;
    row("memory, copying", "GB/s", peak::memory_gbytes)?;
    Ok(Done::Complete)
}

/// The processor's name, as far as it tells.
pub fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    if let Some(brand) = raw_cpuid::CpuId::new().get_processor_brand_string() {
        return brand.as_str().trim().to_owned();
    }
    std::env::consts::ARCH.to_owned()
}
