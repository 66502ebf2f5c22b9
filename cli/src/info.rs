//! `kernelet info`: what the machine has and what it can do at most.

use kernelet::{Cpu, Error, Isa, peak};
use serde::Serialize;

use crate::args::InfoOptions;
use crate::{Done, output};

/// What is known of the machine at once.
#[derive(Serialize)]
struct Machine {
    kernelet: &'static str,
    processor: String,
    instruction_set: String,
    lanes: usize,
    available: Vec<String>,
    threads: usize,
    #[serde(flatten)]
    peaks: Option<Peaks>,
}

/// What has to be measured.
#[derive(Serialize)]
struct Peaks {
    gflops: Peak,
    memory_gbytes: Peak,
}

/// On one thread and on all.
#[derive(Serialize)]
struct Peak {
    one_thread: f64,
    all_threads: f64,
}

impl Machine {
    fn new(cpu: &Cpu) -> Self {
        Self {
            kernelet: env!("CARGO_PKG_VERSION"),
            processor: processor(),
            instruction_set: cpu.isa().to_string(),
            lanes: cpu.isa().lanes(),
            available: Isa::available().iter().map(Isa::to_string).collect(),
            threads: cpu.threads(),
            peaks: None,
        }
    }
}

/// Prints what is known at once, then what has to be measured.
pub fn run(options: &InfoOptions) -> Result<Done, Error> {
    let cpu = options.threads.cpu()?;
    let machine = Machine::new(&cpu);
    let single = cpu.clone().with_threads(1)?;
    let peak = |measure: fn(&Cpu) -> f64| {
        let one_thread = measure(&single);
        let all_threads = if cpu.threads() > 1 { measure(&cpu) } else { one_thread };
        Peak { one_thread, all_threads }
    };
    if options.json {
        let [gflops, memory_gbytes] = [peak::gflops, peak::memory_gbytes].map(peak);
        let peaks = Some(Peaks { gflops, memory_gbytes });
        output::print_json(&Machine { peaks, ..machine })?;
        return Ok(Done::Complete);
    }

    let Machine { kernelet, processor, instruction_set, lanes, available, threads, .. } = machine;
    let (lanes, available) = (output::count(lanes, "lane"), available.join(", "));
    output::print(&format!(
        "kernelet          {kernelet}\n\
         processor         {processor}\n\
         instruction set   {instruction_set} ({lanes} of f32; available: {available})\n\
         threads           {threads}\n"
    ))?;
    let row = |name: &str, unit: &str, measure| {
        let Peak { one_thread, all_threads } = peak(measure);
        let all = match threads {
            1 => String::new(),
            _ => format!(", {all_threads:.1} on {threads}"),
        };
        output::print(&format!("{name:18}{one_thread:.1} {unit} on 1 thread{all}\n"))
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
