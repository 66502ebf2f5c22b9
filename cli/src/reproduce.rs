//! `kernelet study`, one of the study's experiments, and `kernelet reproduce`, all of them in one
//! report.

use std::path::Path;

use kernelet::Error;
use kernelet::train::weights::load_mlp;
use serde_json::json;

use crate::args::{ReproduceOptions, StudyCommand, StudyOptions};
use crate::model::Model;
use crate::network::Network;
use crate::profile::{Peaks, Profile, Subject, measure};
use crate::progress::Overall;
use crate::report::Report;
use crate::study::experiment::Experiment;
use crate::study::functions::{self, Differences};
use crate::study::lab::{Lab, Work, describe};
use crate::study::parts::Made;
use crate::study::printed::{CNN_HIDDEN, HIDDEN_UNITS, KEEP_PROBABILITIES, L2};
use crate::study::{
    Chapter, Outcomes, cnn, early_stopping, hidden_units, kernels, letters, mlp, regularization,
};
use crate::{Done, files, output};

/// Where the report goes without `--out`.
const FOLDER: &str = "kernelet-out/reproduce";

/// Epochs of the two networks.
struct Epochs {
    mlp: usize,
    cnn: usize,
}

/// The study's.
const FULL: Epochs = Epochs { mlp: 200, cnn: 50 };

/// Enough to see everything at work in a minute or two: the first epochs of the full runs.
const QUICK: Epochs = Epochs { mlp: 20, cnn: 2 };

/// Rounds of a profile that are listened to.
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 1;

/// Seconds of a profile, roughly, as [`Experiment::cost`] has them.
const PROFILE_COST: f64 = 8.0;

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
    prepare(out)?;
    let lab = Lab::open(options, out)?;
    announce(&lab, experiments);
    let (parts, cost) = (experiments.len() + subjects.len(), cost(&lab, experiments, subjects));
    let mut overall = Overall::new(parts, cost);
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
    show(&report, &report.text(), options, out)
}

/// Makes all of the study's experiments.
pub fn all(options: &ReproduceOptions) -> Result<Done, Error> {
    let ReproduceOptions { quick, common } = options;
    let epochs = if *quick { QUICK } else { FULL };
    let out = common.out.as_deref().unwrap_or(Path::new(FOLDER));
    prepare(Some(out))?;
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
        .chain([Subject::Cnn { hidden: CNN_HIDDEN, batch: 32, l2: 0.0, keep_probability: 1.0 }])
        .collect();

    announce(&lab, &experiments);
    let (parts, cost) = (experiments.len() + subjects.len(), cost(&lab, &experiments, &subjects));
    let mut overall = Overall::new(parts + 1, cost + 1.0);
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
        Some(functions::chapter(differences)),
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
    show(&report, &report.summary(), common, Some(out))
}

/// Profiles networks, one after the other.
fn profile(
    lab: &Lab,
    subjects: &[Subject],
    rounds: usize,
    overall: &mut Overall,
) -> Result<Work<Vec<Profile>>, Error> {
    let mut profiles = Vec::new();
    // Only if there is anything to profile, and once for all: they have one roof.
    let mut peaks = None;
    for subject in subjects {
        overall.begin(&format!("profile of the {}", subject.name()), PROFILE_COST);
        let name = match subject {
            Subject::Mlp { hidden } => format!("profile-mlp-{hidden}"),
            Subject::Cnn { hidden, .. } => format!("profile-cnn-{hidden}"),
        };
        let measured = lab.part(
            &name,
            &json!({ "profile": subject, "rounds": rounds }),
            overall,
            |lab| {
                let Lab { cpu, split, seed, .. } = lab;
                let peaks = *peaks.get_or_insert_with(|| Peaks::measure(cpu));
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
    let path = lab.weights(perceptron).unwrap_or_default();
    Ok(Work::Done(functions::differences(&lab.cpu, &load_mlp(&path)?, &lab.split.test)))
}

/// The network that a run has left.
fn load(lab: &Lab, experiment: &Experiment) -> Result<Model, Error> {
    Model::load(&lab.weights(experiment).unwrap_or_default())
}

/// Makes sure that there is something to train on and that the report can be written, before
/// anything is run.
fn prepare(out: Option<&Path>) -> Result<(), Error> {
    match out {
        Some(out) => files::check_writable(&out.join("report.html")),
        None => Ok(()),
    }
}

fn cost(lab: &Lab, experiments: &[Experiment], subjects: &[Subject]) -> f64 {
    let runs = experiments.iter().map(|experiment| experiment.cost(lab.images()));
    runs.sum::<f64>() + PROFILE_COST * subjects.len() as f64
}

fn announce(lab: &Lab, experiments: &[Experiment]) {
    let [train, valid, test] = lab.samples();
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
            "interrupted; what is finished is in {}, and the same command goes on from there\n",
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
    if !lab.has_the_study_s_data() {
        text.push(format!(
            "The data are not the study's 18,724 notMNIST letters but {} ({}): what agrees does so \
             because they are about as hard, and to the digit nothing can.",
            lab.origin,
            output::count(lab.images(), "image"),
        ));
    }
    let shortened = outcomes.outcomes.iter().any(|outcome| outcome.shortened());
    if shortened {
        text.push(
            "These are shortened runs: the first epochs of the study's, with everything else as it \
             was. Where the study has the figures of a whole run there is nothing to judge by, and \
             the verdict is open."
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
    let [train, valid, test] = lab.samples();
    let of_mlp =
        |o: &&crate::study::experiment::Outcome| matches!(o.experiment.network, Network::Mlp(_));
    let epochs = |mlp: bool| {
        let run = outcomes.outcomes.iter().find(|outcome| of_mlp(outcome) == mlp)?;
        Some(run.experiment.network.epochs())
    };
    let settings = [
        epochs(true).map(|epochs| {
            format!(
                "{} of full-batch gradient descent, momentum 0.95, learning rate 1e-5 on the \
             summed gradient",
                output::count(epochs, "epoch")
            )
        }),
        epochs(false).map(|epochs| {
            format!(
                "{} of Adam, learning rate 1e-4, minibatches of 32, shuffled",
                output::count(epochs, "epoch")
            )
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
    options: &StudyOptions,
    out: Option<&Path>,
) -> Result<Done, Error> {
    let written = out.map_or_else(|| Ok(Vec::new()), |out| report.write(out))?;
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
