//! [`Cpu`]: which instruction set is chosen or forced, how many threads, and the errors.

mod common;

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{Command, Output};

use common::processors;
use kernelet::cpu::ISA_VARIABLE;
use kernelet::{Cpu, Error, Isa};

const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Native];

/// As errors list them.
fn names_of_available() -> String {
    Isa::available().iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn names_are_parsed_and_printed_alike() {
    for isa in ALL {
        assert_eq!(isa.to_string().parse::<Isa>().ok(), Some(isa), "{isa}");
    }
    for wrong in ["", "AVX2", "avx2 ", "avx", "sse2", "0"] {
        let error = wrong.parse::<Isa>().expect_err("no instruction set");
        let message = format!(
            "instruction set {wrong:?} is unknown; this processor has {}",
            names_of_available()
        );
        assert_eq!(error.to_string(), message, "the message");
    }
}

#[test]
fn lanes_are_those_of_the_registers() {
    assert_eq!(Isa::Scalar.lanes(), 1, "scalar");
    assert_eq!(Isa::Avx2.lanes(), 8, "256 bits");
    assert_eq!(Isa::Avx512.lanes(), 16, "512 bits");
    for isa in Isa::available().into_iter().filter(|&isa| isa == Isa::Native) {
        assert!(isa.lanes() > 1, "{isa} has {} lanes", isa.lanes());
    }
}

#[test]
fn what_the_processor_has_can_be_had_and_nothing_else() {
    let available = Isa::available();
    assert_eq!(available[0], Isa::Scalar, "every processor has it");
    for isa in ALL {
        match Cpu::with_isa(isa) {
            Ok(cpu) => {
                assert!(available.contains(&isa), "{isa} is not available");
                assert_eq!(cpu.isa(), isa, "the instruction set asked for");
            }
            Err(error) => {
                assert!(!available.contains(&isa), "{isa} is available");
                let message =
                    format!("this processor has no {isa}; it has {}", names_of_available());
                assert_eq!(error.to_string(), message, "the message");
            }
        }
    }
    assert_eq!(
        available.contains(&Isa::Avx2),
        cfg!(target_arch = "x86_64") && avx2_by_the_standard_library(),
        "AVX2"
    );
}

#[cfg(target_arch = "x86_64")]
fn avx2_by_the_standard_library() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2_by_the_standard_library() -> bool {
    false
}

#[test]
fn threads_are_those_asked_for() {
    for threads in [1, 2, 5] {
        let cpu = Cpu::detect().and_then(|cpu| cpu.with_threads(threads)).expect("threads");
        assert_eq!(cpu.threads(), threads, "threads()");
        let inside = cpu.install(rayon::current_num_threads);
        assert!(threads == 1 || inside == threads, "{inside} threads inside, not {threads}");
    }
    let error = Cpu::detect().and_then(|cpu| cpu.with_threads(0)).expect_err("no threads");
    assert!(matches!(error, Error::Threads { wanted: 0, .. }), "{error:?}");
    assert_eq!(error.to_string(), "cannot run on 0 threads: at least one is needed", "message");
}

/// Whatever `KERNELET_ISA` is in this process. [`the_variable_forces_an_instruction_set`] runs
/// this test again with other values.
#[test]
fn detect_obeys_the_variable() {
    let detected = Cpu::detect();
    let Some(name) = env::var_os(ISA_VARIABLE) else {
        let best = Isa::available().into_iter().max();
        assert_eq!(detected.ok().map(|cpu| cpu.isa()), best, "the best there is");
        return;
    };
    let asked = name.to_str().and_then(|name| name.parse::<Isa>().ok());
    match (detected, asked) {
        (Ok(cpu), Some(isa)) => assert_eq!(cpu.isa(), isa, "the one that is forced"),
        (Err(Error::IsaUnavailable { wanted, available }), Some(isa)) => {
            assert_eq!(wanted, isa, "the one that is missing");
            assert!(!available.contains(&isa), "{isa} is in {available:?}");
        }
        (Err(Error::UnknownIsa(text)), None) => {
            assert_eq!(text, name.to_string_lossy(), "the text that is no instruction set");
        }
        (detected, asked) => panic!("{name:?} is {asked:?} but detect gives {detected:?}"),
    }
}

/// Runs one test of this program in a process of its own with `KERNELET_ISA` set.
fn run_again(test: &str, value: &OsStr) -> Output {
    let program = env::current_exe().expect("this program's path");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--test-threads=1"]).env(ISA_VARIABLE, value);
    command.output().expect("this program runs again")
}

#[test]
fn the_variable_forces_an_instruction_set() {
    let mut values: Vec<OsString> = ALL.iter().map(|isa| isa.to_string().into()).collect();
    values.extend(["", "AVX2", "sse9"].map(OsString::from));
    #[cfg(unix)]
    values.push(std::os::unix::ffi::OsStringExt::from_vec(b"avx\xff".to_vec()));
    for value in values {
        let output = run_again("detect_obeys_the_variable", &value);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "with {value:?}:\n{text}");
        assert!(text.contains("1 passed"), "the test has to run, with {value:?}:\n{text}");
    }
}

#[test]
fn tests_run_on_the_forced_instruction_set_or_on_all_that_there_are() {
    let tested: Vec<_> = processors().iter().map(|processor| processor.isa.to_string()).collect();
    let wanted = match env::var(ISA_VARIABLE) {
        Ok(forced) => vec![forced],
        Err(_) => Isa::available().iter().map(Isa::to_string).collect(),
    };
    assert_eq!(tested, wanted, "the instruction sets of the tests");
}

/// A test that could not run its instruction set must not pass in silence.
#[test]
fn tests_fail_where_the_forced_instruction_set_is_missing() {
    let missing: Vec<_> = ALL.into_iter().filter(|isa| !Isa::available().contains(isa)).collect();
    assert!(!missing.is_empty(), "no processor has the vectors of two architectures");
    for isa in missing {
        let test = "tests_run_on_the_forced_instruction_set_or_on_all_that_there_are";
        let output = run_again(test, isa.to_string().as_ref());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "passed without {isa}:\n{text}");
        assert!(text.contains(&format!("this processor has no {isa}")), "says why:\n{text}");
    }
}
