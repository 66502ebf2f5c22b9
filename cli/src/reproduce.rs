//! `kernelet study`, one of the study's experiments, and `kernelet reproduce`, all of them in one
//! report.

use std::path::Path;

use kernelet::Error;
use kernelet::train::cnn::Settings as CnnSettings;
use kernelet::train::mlp::Settings as MlpSettings;
use kernelet::train::weights::load_mlp;
use serde_json::json;

use crate::args::{ReproduceOptions, StudyCommand, StudyOptions};
use crate::model::Model;
use crate::network::Network;
use crate::profile::{Peaks, Profile, Subject, measure};
use crate::progress::Overall;
use crate::report::Report;
use crate::study::experiment::{Experiment, Outcome};
use crate::study::functions::{self, Differences};
use crate::study::lab::{Lab, Work, describe};
use crate::study::parts::Made;
use crate::study::printed::{HIDDEN_UNITS, KEEP_PROBABILITIES, L2};
use crate::study::{
    Chapter, Outcomes, cnn, early_stopping, hidden_units, kernels, letters, mlp, regularization,
};
use crate::{Done, history, output, report};

/// Where the report goes without `--out`.
const FOLDER: &str = "kernelet-out/reproduce";

/// Epochs of the two networks.
struct Epochs {
    mlp: usize,
    cnn: usize,
}

/// Enough to see everything at work in a minute or two: the first epochs of the full runs.
const QUICK: Epochs = Epochs { mlp: 20, cnn: 2 };

/// Rounds of a profile that are listened to.
const ROUNDS: usize = 31;
const QUICK_ROUNDS: usize = 3;

/// Seconds of a profile and of the peaks, roughly, as [`Experiment::cost`] has them.
const PROFILE_COST: f64 = 20.0;
const PEAKS_COST: f64 = 1.5;

/// Makes one of the study's experiments.
pub fn study(command: &StudyCommand) -> Result<Done, Error> {
    match command {
        StudyCommand::HiddenUnits { units, profile, epochs, common } => {
            let units = ascending(units, usize::cmp);
            let subjects: Vec<_> = units.iter().map(|&hidden| Subject::Mlp { hidden }).collect();
            let subjects = if *profile { subjects } else { Vec::new() };
            let experiments = hidden_units::experiments(&units, *epochs);
            one("hidden units", common, &experiments, &subjects, |outcomes| {
                vec![hidden_units::chapter(outcomes, &units, *epochs)]
            })
        }
        StudyCommand::EarlyStopping { epochs, common } => {
            one("early stopping", common, &mlp::experiments(*epochs), &[], |outcomes| {
                let chapters =
                    [mlp::chapter(outcomes, *epochs), early_stopping::chapter(outcomes, *epochs)];
                chapters.into_iter().flatten().collect()
            })
        }
        StudyCommand::L2 { l2, epochs, common } => {
            // Without a penalty the network is run anyway.
            let l2: Vec<_> =
                ascending(l2, f32::total_cmp).into_iter().filter(|&l2| l2 != 0.0).collect();
            let experiments = regularization::l2_experiments(&l2, *epochs);
            one("L2 regularisation", common, &experiments, &[], |outcomes| {
                let chapters = cnn::chapter(outcomes, *epochs, None).into_iter();
                chapters.chain([regularization::l2_chapter(outcomes, &l2, *epochs)]).collect()
            })
        }
        StudyCommand::Dropout { keep_prob, epochs, common } => {
            let mut keep: Vec<_> =
                ascending(keep_prob, f32::total_cmp).into_iter().filter(|&p| p != 1.0).collect();
            keep.reverse();
            let experiments = regularization::dropout_experiments(&keep, *epochs);
            one("dropout", common, &experiments, &[], |outcomes| {
                let chapters = cnn::chapter(outcomes, *epochs, None).into_iter();
                chapters
                    .chain([regularization::dropout_chapter(outcomes, &keep, *epochs)])
                    .collect()
            })
        }
    }
}

/// In order, each once.
fn ascending<T: Copy>(values: &[T], order: fn(&T, &T) -> std::cmp::Ordering) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort_by(order);
    values.dedup_by(|a, b| order(a, b).is_eq());
    values
}

/// Makes the runs of one experiment, profiles what `subjects` names, and shows its chapters.
fn one(
    title: &str,
    options: &StudyOptions,
    experiments: &[Experiment],
    subjects: &[Subject],
    chapters: impl FnOnce(&Outcomes) -> Vec<Chapter>,
) -> Result<Done, Error> {
    let out = options.out.as_deref();
    let lab = Lab::open(options, out)?;
    announce(&lab, experiments);
    let mut overall = Overall::new(parts(experiments, subjects), cost(&lab, experiments, subjects));
    let Work::Done(outcomes) = lab.train(experiments, |_| false, &mut overall)? else {
        return interrupted(overall, out);
    };
    let Work::Done(profiles) = profile(&lab, subjects, ROUNDS, &mut overall)? else {
        return interrupted(overall, out);
    };
    overall.finish();
    let report = Report {
        title: format!("The study's {title}, with kernelet"),
        preface: preface(&lab, &outcomes),
        facts: facts(&lab, &outcomes),
        chapters: chapters(&outcomes).into_iter().chain(kernels::chapter(&profiles)).collect(),
    };
    show(&report, &report.text(), &outcomes, options, out)
}

/// Makes all of the study's experiments.
pub fn all(options: &ReproduceOptions) -> Result<Done, Error> {
    let ReproduceOptions { quick, common } = options;
    let full = || Epochs { mlp: MlpSettings::default().epochs, cnn: CnnSettings::default().epochs };
    let epochs = if *quick { QUICK } else { full() };
    let out = common.out.as_deref().unwrap_or(Path::new(FOLDER));
    let lab = Lab::open(common, Some(out))?;

    let perceptron = Experiment::study_mlp(epochs.mlp);
    let plain = cnn::experiment(epochs.cnn);
    let mut experiments = hidden_units::experiments(&HIDDEN_UNITS, epochs.mlp);
    experiments.extend(regularization::l2_experiments(&L2, epochs.cnn));
    // The first of these is there already.
    let dropout = regularization::dropout_experiments(&KEEP_PROBABILITIES, epochs.cnn);
    experiments.extend(dropout.into_iter().skip(1));

    let subjects: Vec<_> = HIDDEN_UNITS
        .iter()
        .map(|&hidden| Subject::Mlp { hidden })
        .chain([Subject::study_cnn()])
        .collect();

    announce(&lab, &experiments);
    let mut overall =
        Overall::new(parts(&experiments, &subjects) + 1, cost(&lab, &experiments, &subjects) + 1.0);
    let keep =
        |experiment: &Experiment| [&perceptron.name, &plain.name].contains(&&experiment.name);
    let Work::Done(outcomes) = lab.train(&experiments, keep, &mut overall)? else {
        return interrupted(overall, Some(out));
    };
    overall.begin("the study's functions", 1.0);
    let differences = lab.part(
        "functions",
        &json!({ "functions": perceptron }),
        &mut overall,
        |lab| compare_functions(lab, &perceptron),
        |_| "compared".into(),
    )?;
    let Work::Done(differences) = differences else { return interrupted(overall, Some(out)) };
    let rounds = if *quick { QUICK_ROUNDS } else { ROUNDS };
    let Work::Done(profiles) = profile(&lab, &subjects, rounds, &mut overall)? else {
        return interrupted(overall, Some(out));
    };
    overall.finish();

    let networks =
        [("perceptron", load(&lab, &perceptron)?), ("convolutional network", load(&lab, &plain)?)];
    let chapters = [
        functions::chapter(differences),
        mlp::chapter(&outcomes, epochs.mlp),
        Some(hidden_units::chapter(&outcomes, &HIDDEN_UNITS, epochs.mlp)),
        early_stopping::chapter(&outcomes, epochs.mlp),
        cnn::chapter(&outcomes, epochs.cnn, outcomes.of(&perceptron.name)),
        Some(regularization::l2_chapter(&outcomes, &L2, epochs.cnn)),
        Some(regularization::dropout_chapter(&outcomes, &KEEP_PROBABILITIES, epochs.cnn)),
        kernels::chapter(&profiles),
        letters::chapter(&lab.cpu, &lab.split, &networks)?,
    ];
    let report = Report {
        title: "The study, reproduced with kernelet".into(),
        preface: preface(&lab, &outcomes),
        facts: facts(&lab, &outcomes),
        chapters: chapters.into_iter().flatten().collect(),
    };
    show(&report, &report.summary(), &outcomes, common, Some(out))
}

/// Profiles networks, one after the other.
fn profile(
    lab: &Lab,
    subjects: &[Subject],
    rounds: usize,
    overall: &mut Overall,
) -> Result<Work<Vec<Profile>>, Error> {
    if subjects.is_empty() {
        return Ok(Work::Done(Vec::new()));
    }
    overall.begin("the machine's peaks", PEAKS_COST);
    let measured = lab.part(
        "peaks",
        &"peaks",
        overall,
        |lab| Ok(Work::Done(Peaks::measure(&lab.cpu))),
        |peaks| format!("{:.0} GFLOP/s, {:.1} GB/s", peaks.gflops, peaks.memory_gbytes),
    )?;
    let Work::Done(peaks) = measured else { return Ok(Work::Interrupted) };
    let mut profiles = Vec::new();
    for subject in subjects {
        overall.begin(&format!("profile of the {}", subject.name()), PROFILE_COST);
        let measured = lab.part(
            &format!("profile-{}-{}", subject.network(), subject.hidden()),
            &json!({ "profile": subject, "rounds": rounds, "peaks": peaks }),
            overall,
            |lab| {
                let Lab { cpu, split, seed, .. } = lab;
                let profile = measure(cpu, split, subject, *seed, rounds, peaks)?;
                Ok(profile.map_or(Work::Interrupted, Work::Done))
            },
            |profile| {
                let Profile { step_seconds, coverage, .. } = profile;
                let (ms, percent) = (1e3 * step_seconds.off, 100.0 * coverage);
                format!("a step takes {ms:.1} ms, {percent:.1} % of it in kernels")
            },
        )?;
        let Work::Done(profile) = measured else { return Ok(Work::Interrupted) };
        profiles.push(profile);
    }
    Ok(Work::Done(profiles))
}

fn compare_functions(lab: &Lab, perceptron: &Experiment) -> Result<Work<Differences>, Error> {
    let path = lab.weights(perceptron)?.unwrap_or_default();
    Ok(Work::Done(functions::differences(&lab.cpu, &load_mlp(&path)?, &lab.split.test)))
}

/// The network that a run has left.
fn load(lab: &Lab, experiment: &Experiment) -> Result<Model, Error> {
    Model::load(&lab.weights(experiment)?.unwrap_or_default())
}

/// How many there are: the peaks are one more.
fn parts(experiments: &[Experiment], subjects: &[Subject]) -> usize {
    experiments.len() + subjects.len() + usize::from(!subjects.is_empty())
}

fn cost(lab: &Lab, experiments: &[Experiment], subjects: &[Subject]) -> f64 {
    let runs = experiments.iter().map(|experiment| experiment.cost(lab.images()));
    let peaks = if subjects.is_empty() { 0.0 } else { PEAKS_COST };
    runs.sum::<f64>() + PROFILE_COST * subjects.len() as f64 + peaks
}

fn announce(lab: &Lab, experiments: &[Experiment]) {
    let [train, valid, test] = lab.samples;
    output::complain(&format!(
        "{} on {}, {} on {}\n{train} images train, {valid} validate, {test} test\n",
        describe(experiments),
        lab.origin,
        lab.cpu.isa(),
        output::count(lab.cpu.threads(), "thread"),
    ));
}

fn interrupted(overall: Overall, out: Option<&Path>) -> Result<Done, Error> {
    overall.finish();
    output::complain(&match out {
        Some(out) => format!(
            "interrupted; what is finished is in {}, and the same command (without --fresh) goes on \
             from there\n",
            out.display()
        ),
        None => "interrupted; without --out nothing is kept\n".to_owned(),
    });
    Ok(Done::Interrupted)
}

/// What has to be said first.
fn preface(lab: &Lab, outcomes: &Outcomes) -> Vec<String> {
    let mut text = vec![
        "The study: two neural networks that tell the letters A to J apart, a perceptron written \
         in NumPy and a convolutional network in TensorFlow. Here both are trained by kernelet \
         with the study's settings, and its tables and figures stand beside ours."
            .to_owned(),
    ];
    if !lab.as_the_study {
        let images = output::count(lab.images(), "image");
        text.push(format!(
            "The data are not the study's 18,724 notMNIST letters, split as there, but {} ({images}): \
             its figures stand beside ours for orientation, and only what it says in words is \
             judged.",
            lab.origin,
        ));
    }
    if !outcomes.outcomes.iter().all(Outcome::has_the_study_s_epochs) {
        text.push(
            "These runs have another number of epochs than the study's, with everything else as it \
             was there: the first epochs of a longer run are the same. What the study says of its \
             whole runs cannot be judged by them, and the verdict is open."
                .to_owned(),
        );
    }
    text
}

/// The settings, the machine and the versions.
fn facts(lab: &Lab, outcomes: &Outcomes) -> Vec<(&'static str, String)> {
    let distinct = |of: fn(&Made) -> String| {
        let mut values: Vec<_> = outcomes.outcomes.iter().map(|o| of(&o.made)).collect();
        values.sort();
        values.dedup();
        values
    };
    let between = |values: Vec<String>| match values.as_slice() {
        [first, .., last] => format!("{first} to {last}"),
        values => values.concat(),
    };
    let [train, valid, test] = lab.samples;
    let first = |settings: fn(&Network) -> Option<String>| {
        outcomes.outcomes.iter().find_map(|outcome| settings(&outcome.experiment.network))
    };
    let settings = [
        first(|network| match network {
            Network::Mlp(settings) => Some(format!(
                "{} of full-batch gradient descent, momentum {}, learning rate {:e} on the summed \
                 gradient",
                output::count(settings.epochs, "epoch"),
                settings.momentum,
                settings.learning_rate,
            )),
            Network::Cnn(_) => None,
        }),
        first(|network| match network {
            Network::Cnn(settings) => Some(format!(
                "{} of Adam, learning rate {:e}, minibatches of {}, shuffled",
                output::count(settings.epochs, "epoch"),
                settings.learning_rate,
                settings.batch,
            )),
            Network::Mlp(_) => None,
        }),
    ];
    let names = ["perceptron", "convolutional network"];
    let settings = names.into_iter().zip(settings).filter_map(|(name, text)| Some((name, text?)));
    let seconds: f64 = outcomes.outcomes.iter().map(|o| o.result.seconds.total).sum();
    [
        ("data", lab.origin.clone()),
        ("SHA-256 of pixels and labels", lab.fingerprint.clone()),
        ("images", format!("{train} train, {valid} validate, {test} test")),
        ("seed", lab.seed.to_string()),
    ]
    .into_iter()
    .chain(settings)
    .chain([
        ("time of all runs", format!("{seconds:.0} s")),
        ("runs finished (UTC)", between(distinct(|made| made.at.clone()))),
        ("processor", distinct(|made| made.processor.clone()).join("; ")),
        ("instruction set", distinct(|made| made.instruction_set.clone()).join("; ")),
        ("threads", distinct(|made| made.threads.to_string()).join("; ")),
        ("operating system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("kernelet", env!("CARGO_PKG_VERSION").into()),
        ("commit", distinct(|made| made.commit.clone()).join("; ")),
        ("compiler", env!("KERNELET_RUSTC").into()),
    ])
    .collect()
}

/// Writes the report's files and prints what is to be seen of it at once.
fn show(
    report: &Report,
    text: &str,
    outcomes: &Outcomes,
    options: &StudyOptions,
    out: Option<&Path>,
) -> Result<Done, Error> {
    let mut written = Vec::new();
    if let Some(out) = out {
        written = report.write(out)?;
        let histories = out.join(report::HISTORIES);
        for Outcome { experiment, result, .. } in &outcomes.outcomes {
            let path = histories.join(format!("{}.csv", experiment.name));
            history::write(&path, &experiment.network, &result.history)?;
        }
        written.push(histories);
    }
    if options.json {
        output::print_json(&report.json())?;
        return Ok(Done::Complete);
    }
    let mut text = text.to_owned();
    if !written.is_empty() {
        text.push('\n');
    }
    for path in written {
        text += &format!("wrote {}\n", path.display());
    }
    output::print(&text)?;
    Ok(Done::Complete)
}
