//! The command line: every line is parsed or refused, and what is parsed lies in the ranges that the
//! help states. The words of a line are the lines of the input.

#![no_main]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use clap::parser::MatchesError;
use clap::{ArgMatches, Command, CommandFactory, Parser};
use kernelet_cli::Arguments;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

fuzz_target!(|data: &[u8]| {
    let words = data.split(|&byte| byte == b'\n').map(OsStr::from_bytes);
    let line: Vec<_> = [OsStr::new("kernelet")].into_iter().chain(words).collect();
    match Arguments::try_parse_from(&line) {
        Ok(_) => {
            let matches = Arguments::command().try_get_matches_from(&line);
            check(&matches.expect("what was parsed once is parsed again"));
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error without a message"),
    }
});

/// The ranges of a command's options and of those of its subcommand.
fn check(matches: &ArgMatches) {
    for name in ["hidden", "units"] {
        hold(matches, name, |n| (1..=100_000usize).contains(n));
    }
    hold(matches, "threads", |n| (1..=1024usize).contains(n));
    for name in ["batch", "count", "eval_every", "patience", "rounds", "checkpoint_every"] {
        hold(matches, name, |n: &usize| *n >= 1);
    }
    hold(matches, "lr", |x: &f32| x.is_finite() && *x > 0.0);
    hold(matches, "momentum", |x: &f32| (0.0..1.0).contains(x));
    hold(matches, "l2", |x: &f32| x.is_finite() && *x >= 0.0);
    hold(matches, "keep_prob", |x: &f32| *x > 0.0 && *x <= 1.0);
    if let Some((_, matches)) = matches.subcommand() {
        check(matches);
    }
}

/// All values of an option, if the command has it.
fn hold<T: Clone + Debug + Send + Sync + 'static>(
    matches: &ArgMatches,
    name: &str,
    valid: impl Fn(&T) -> bool,
) {
    match matches.try_get_many::<T>(name) {
        Ok(values) => {
            for value in values.into_iter().flatten() {
                assert!(valid(value), "{name} is {value:?}");
            }
        }
        Err(MatchesError::UnknownArgument { .. }) => {}
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Words that the program knows, and values on both sides of its ranges.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    fn collect(command: &Command, words: &mut BTreeSet<String>) {
        words.insert(command.get_name().to_owned());
        for argument in command.get_arguments() {
            words.extend(argument.get_long().map(|long| format!("--{long}")));
            let values = argument.get_possible_values();
            words.extend(values.iter().map(|value| value.get_name().to_owned()));
        }
        command.get_subcommands().for_each(|command| collect(command, words));
    }
    let values = [
        "",
        "-",
        "--",
        "0",
        "1",
        "-1",
        "-0.0",
        "0.5",
        "1.0",
        "1e-5",
        "1e39",
        "1e-50",
        "nan",
        "inf",
        "1024",
        "1025",
        "100000",
        "100001",
        "4294967296",
        "18446744073709551616",
        "3,4",
        "1,",
        "none",
        "--help",
        "-h",
        "--version",
        "file.npz",
    ];
    let mut words: BTreeSet<_> = values.map(str::to_owned).into();
    let mut command = Arguments::command();
    command.build();
    collect(&command, &mut words);
    words.into_iter().collect()
});

// A word is added, taken out, or becomes another; or bytes are changed blindly.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = StdRng::seed_from_u64(seed.into());
    let mut line: Vec<&[u8]> = data[..size].split(|&byte| byte == b'\n').collect();
    let word = WORDS.choose(&mut random).map_or(&[][..], |word| word.as_bytes());
    let at = random.random_range(0..line.len());
    match random.random_range(0..6) {
        0 | 1 => line.insert(at + 1, word),
        2 => line[at] = word,
        3 => line.push(word),
        4 => {
            line.remove(at);
        }
        _ => return fuzzer_mutate(data, size, max_size),
    }
    let line = line.join(&b'\n');
    if line.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..line.len()].copy_from_slice(&line);
    line.len()
});
