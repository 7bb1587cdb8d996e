//! Every state that the consensus core can reach within bounds, and every planted bug found.
//!
//! `README.md` says what is modelled, and what that shows.

mod bounds;
mod check;
mod plants;
mod quorums;
mod rules;
mod show;
mod state;
mod step;

use std::process::ExitCode;
use std::time::Instant;

use bounds::{Bounds, LARGE, SMALL};
use plants::Plant;

const USAGE: &str = "\
usage: oarlock-model [--bounds small|large] [--only MODEL] [--threads N]
       oarlock-model --plants [NAME] [--threads N]

Goes through all states of each model, and through all small configurations; or plants each bug, and
looks for it.";

enum Job {
    /// All models, or one.
    Models(Option<String>),
    /// All planted bugs, or one.
    Plants(Option<String>),
}

struct Arguments {
    job: Job,
    large: bool,
    threads: usize,
}

fn arguments() -> Option<Arguments> {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let mut parsed = Arguments { job: Job::Models(None), large: false, threads };
    let mut given = std::env::args().skip(1).peekable();
    while let Some(name) = given.next() {
        match name.as_str() {
            "--bounds" => {
                parsed.large = match given.next()?.as_str() {
                    "small" => false,
                    "large" => true,
                    _ => return None,
                }
            }
            "--only" => parsed.job = Job::Models(Some(given.next()?)),
            "--plants" => {
                parsed.job = Job::Plants(given.next_if(|next| !next.starts_with("--")));
            }
            "--threads" => {
                parsed.threads = given.next()?.parse().ok().filter(|threads| *threads > 0)?;
            }
            _ => return None,
        }
    }
    Some(parsed)
}

fn main() -> ExitCode {
    let Some(Arguments { job, large, threads }) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    step::silence_cores();
    let all_is_well = match job {
        Job::Models(name) => {
            check_models(if large { &LARGE } else { &SMALL }, name.as_deref(), large, threads)
        }
        Job::Plants(name) => check_plants(name.as_deref(), threads),
    };
    if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_models(models: &[Bounds], only: Option<&str>, large: bool, threads: usize) -> bool {
    let chosen: Vec<&Bounds> =
        models.iter().filter(|bounds| only.is_none_or(|name| name == bounds.name)).collect();
    if only.is_none() {
        check_quorums(large);
    } else if chosen.is_empty() {
        println!("no model is called {}", only.unwrap_or_default());
        return false;
    }
    println!("{:<14} {:>12} {:>12} {:>6} {:>8}", "model", "states", "steps", "depth", "seconds");
    let mut all_is_well = true;
    for bounds in chosen {
        let outcome = check::run(*bounds, None, threads);
        println!(
            "{:<14} {:>12} {:>12} {:>6} {:>8.1}  {}",
            bounds.name,
            outcome.states,
            outcome.steps,
            outcome.depth,
            outcome.took.as_secs_f64(),
            bounds.about
        );
        if let Some(path) = &outcome.broken {
            println!("  A rule is broken:\n{}", show::story(path));
            all_is_well = false;
        }
        for sight in outcome.missing {
            println!("  Never seen, so the model checks less than it says: {sight}");
            all_is_well = false;
        }
    }
    all_is_well
}

fn check_quorums(large: bool) {
    let began = Instant::now();
    let (changing, committing) = if large { (7, 6) } else { (6, 4) };
    let counts = quorums::check(changing, committing);
    println!(
        "quorums: {} configurations of {changing} nodes; in {} changes all quorums meet, and in {} of them \
         they would not without a joint configuration; {} commit indexes of {committing} nodes; {:.1} s\n",
        counts.configurations,
        counts.changes,
        counts.unsafe_steps,
        counts.commits,
        began.elapsed().as_secs_f64()
    );
}

fn check_plants(name: Option<&str>, threads: usize) -> bool {
    let chosen: Vec<Plant> = Plant::ALL
        .into_iter()
        .filter(|plant| name.is_none_or(|name| name == plant.name()))
        .collect();
    if chosen.is_empty() {
        println!("no planted bug is called {}", name.unwrap_or_default());
    }
    let mut all_are_found = !chosen.is_empty();
    for plant in chosen {
        let (what, model, rule) = plant.is_found();
        let bounds = SMALL.into_iter().find(|bounds| bounds.name == model);
        let bounds = bounds.expect("every planted bug names a model");
        let outcome = check::run(bounds, Some(plant), threads);
        println!("{}: {what}", plant.name());
        if let Some(path) = outcome.broken {
            println!(
                "  found in {model} after {} states, {} steps deep, {:.1} s: not so: {}",
                outcome.states,
                path.len() - 1,
                outcome.took.as_secs_f64(),
                rule.says()
            );
            if name.is_some() {
                println!("{}", show::story(&path));
            }
        } else {
            println!("  NOT FOUND in {model}");
            all_are_found = false;
        }
    }
    all_are_found
}
