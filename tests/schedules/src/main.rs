//! Goes through the schedules of the library's threads; `README.md` says how, and what that shows.
//!
//! As a test program: with a part of a name, only the scenarios that have it.

use std::env;
use std::panic;
use std::process::ExitCode;
use std::time::Instant;

use oarlock::schedules::ALL;

fn main() -> ExitCode {
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    let (mut red, mut ran) = (0, 0);
    for scenario in ALL.iter().copied().flatten().filter(|scenario| scenario.name.contains(&wanted))
    {
        let begun = Instant::now();
        let result = panic::catch_unwind(scenario.run);
        ran += 1;
        let took = begun.elapsed().as_secs_f32();
        match result {
            Ok(schedules) => {
                println!("test {} ({schedules} schedules, {took:.1} s) ... ok", scenario.name);
            }
            Err(_) => {
                println!("test {} ... FAILED", scenario.name);
                red += 1;
            }
        }
    }
    println!("{ran} scenarios, {red} red");
    if red > 0 || ran == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
