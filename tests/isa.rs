//! [`Cpu`]: which instruction set is chosen or forced, the errors, and that the number of threads
//! changes no bit of a training run.

mod common;

use std::env;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::process::{Command, Output};

use common::{Random, processors};
use kernelet::cpu::ISA_VARIABLE;
use kernelet::data::{Samples, Split};
use kernelet::kernels::adam::Adam;
use kernelet::kernels::dropout::Dropout;
use kernelet::nn::cnn::{AdamState, Regularization, Workspace};
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::mlp::{Reduction, Settings, train};
use kernelet::{Cpu, Error, Isa};

const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Native];

#[test]
fn names_are_parsed_and_printed_alike() {
    for isa in ALL {
        assert_eq!(isa.to_string().parse::<Isa>().ok(), Some(isa), "{isa}");
    }
    for wrong in ["", "AVX2", "avx2 ", "avx", "sse2", "0"] {
        let error = wrong.parse::<Isa>().expect_err("no instruction set");
        assert_eq!(
            error.to_string(),
            format!("instruction set {wrong:?} is unknown: use scalar, avx2 or avx512")
        );
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
                let names: Vec<_> = available.iter().map(Isa::to_string).collect();
                let message = format!("this processor has no {isa}; it has {}", names.join(", "));
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

/// A test that could not run its instruction set must not pass in silence.
#[test]
fn tests_fail_where_the_forced_instruction_set_is_missing() {
    let missing: Vec<_> = ALL.into_iter().filter(|isa| !Isa::available().contains(isa)).collect();
    assert!(!missing.is_empty(), "no processor has the vectors of two architectures");
    for isa in missing {
        let output =
            run_again("training_is_the_same_with_any_number_of_threads", isa.to_string().as_ref());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "passed without {isa}:\n{text}");
        assert!(text.contains(&format!("this processor has no {isa}")), "says why:\n{text}");
    }
}

fn samples(random: &mut Random, n: usize, inputs: usize, classes: usize) -> Samples {
    Samples { images: random.uniform(n * inputs, 1.0), labels: random.labels(n, classes) }
}

/// Sizes at which every kernel of the step shares its work out: more rows than the network takes
/// at a time (1,024 with so many hidden units), and more weights (131,072) than one thread updates.
#[test]
fn training_is_the_same_with_any_number_of_threads() {
    let shape = MlpShape { inputs: 130, hidden: 1025, classes: 10 };
    let mut random = Random::new(31);
    let split = Split {
        train: samples(&mut random, 1100, shape.inputs, shape.classes),
        valid: samples(&mut random, 1030, shape.inputs, shape.classes),
        test: samples(&mut random, 5, shape.inputs, shape.classes),
        classes: shape.classes,
    };
    let settings = Settings {
        epochs: 5,
        learning_rate: 0.5,
        momentum: 0.9,
        reduction: Reduction::Mean,
        eval_every: 1,
        patience: None,
    };
    let start = Mlp::xavier(shape, 3);
    for processor in processors() {
        let runs = [1, 2, 3].map(|threads| {
            let cpu = Cpu::with_isa(processor.isa).and_then(|cpu| cpu.with_threads(threads));
            let mut mlp = start.clone();
            let observe = &mut |_: &_| ControlFlow::Continue(());
            let history = train(&cpu.expect("a processor"), &settings, &split, &mut mlp, observe)
                .expect("valid settings");
            let figures: Vec<_> = history
                .epochs
                .iter()
                .map(|row| (row.epoch, row.train, row.valid, row.test))
                .collect();
            (mlp, figures)
        });
        let [(one, figures), others @ ..] = &runs;
        assert_ne!(one, &start, "training changes the weights");
        assert!(one.w_h.iter().all(|w| w.is_finite()), "training stays finite");
        let loss = |epoch: usize| figures[epoch].1.map(|train| train.loss).expect("evaluated");
        assert!(loss(5) < loss(0), "training learns: {figures:?}");
        for (threads, (mlp, other_figures)) in (2..).zip(others) {
            let bits = |mlp: &Mlp| {
                [&mlp.w_h, &mlp.b_h, &mlp.w_o, &mlp.b_o]
                    .map(|w| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>())
            };
            let isa = processor.isa;
            assert!(bits(one) == bits(mlp), "other weights with {threads} threads on {isa}");
            assert_eq!(figures, other_figures, "the history with {threads} threads on {isa}");
        }
    }
}

/// Steps of the study's CNN with fewer units, regularised in both ways: the same bits with any
/// number of threads.
#[test]
fn steps_of_the_cnn_are_the_same_with_any_number_of_threads() {
    let shape = CnnShape::study(48, 10);
    let mut random = Random::new(32);
    let samples = samples(&mut random, 40, shape.pixels(), shape.classes);
    let start = Cnn::xavier(shape, 3);
    for processor in processors() {
        let runs = [1, 2, 3].map(|threads| {
            let cpu = Cpu::with_isa(processor.isa).and_then(|cpu| cpu.with_threads(threads));
            let cpu = cpu.expect("a processor");
            let (mut cnn, mut state) = (start.clone(), AdamState::new(shape));
            let mut work = Workspace::default();
            let figures = [1, 2, 3].map(|step| {
                let dropout = Some(Dropout { keep: 0.5, seed: 7, step });
                let regularization = Regularization { l2: 0.01, dropout };
                let adam = Adam { learning_rate: 1e-3, ..Adam::default() };
                let (x, labels) = (&samples.images, &samples.labels);
                cnn.adam_step(&cpu, &mut work, x, labels, adam, regularization, &mut state)
            });
            (cnn, figures)
        });
        let [(one, figures), others @ ..] = &runs;
        assert_ne!(one, &start, "training changes the weights");
        for (threads, (cnn, other_figures)) in (2..).zip(others) {
            let bits = |cnn: &Cnn| {
                [&cnn.w0, &cnn.b0, &cnn.w1, &cnn.b1, &cnn.w2, &cnn.b2]
                    .map(|w| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>())
            };
            let isa = processor.isa;
            assert!(bits(one) == bits(cnn), "other weights with {threads} threads on {isa}");
            assert_eq!(figures, other_figures, "the figures with {threads} threads on {isa}");
        }
    }
}
