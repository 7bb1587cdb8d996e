//! A user's own machine under the simulator: what is wrong with it is found.

use std::cell::Cell;

use oarlock::Machine;
use oarlock::simulation::{Broken, Options, Profile, Workload, World, digest, shrink};
use serde::{Deserialize, Serialize};

/// Adds numbers up.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Sum {
    total: u64,
    count: u64,
    /// How this one was made: what a machine must not depend on.
    made: u64,
}

impl Machine for Sum {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, number: u64) -> u64 {
        self.total += number;
        self.count += 1;
        // The tenth command is taken otherwise by some.
        if self.made > 0 && self.count == 10 {
            self.total += self.made;
        }
        self.total
    }
}

/// Clients that send small numbers; what is wrong is chosen.
#[derive(Default)]
struct Sums {
    /// Machines differ in something that commands depend on.
    differ: bool,
    made: Cell<u64>,
    /// The sum must stay below this.
    limit: Option<u64>,
}

impl Workload for Sums {
    type Machine = Sum;

    fn machine(&self) -> Sum {
        self.made.set(self.made.get() + 1);
        Sum { made: if self.differ { self.made.get() } else { 0 }, ..Sum::default() }
    }

    fn command(&mut self, rng: &mut fastrand::Rng) -> u64 {
        rng.u64(1..10)
    }

    fn digest(&self, machine: &Sum) -> u64 {
        digest(&(machine.total, machine.count))
    }

    fn check(&mut self, machine: &Sum) -> Result<(), String> {
        match self.limit {
            Some(limit) if machine.total >= limit => Err(format!("the sum is {}", machine.total)),
            _ => Ok(()),
        }
    }
}

fn calm() -> Options {
    Options { steps: 5000, nodes: 3, ..Options::draw(Profile::Calm, 1) }
}

fn broken(workload: Sums) -> Broken {
    World::run(calm(), workload).expect_err("something is wrong")
}

#[test]
fn a_machine_that_is_deterministic_passes() {
    let report = World::run(calm(), Sums::default()).expect("nothing is wrong");
    assert!(report.commands > 10, "{report}");
}

#[test]
fn a_machine_that_depends_on_more_than_its_commands_is_found() {
    let broken = broken(Sums { differ: true, ..Sums::default() });
    let text = broken.to_string();
    let found = text.contains("another than that") || text.contains("was answered with");
    assert!(found, "{text}");
}

#[test]
fn a_rule_of_the_users_own_is_looked_at_after_every_command() {
    let broken = broken(Sums { limit: Some(20), ..Sums::default() });
    assert!(broken.to_string().contains("the sum is 2"), "{broken}");
    assert!(broken.event() > 0);
}

#[test]
fn a_run_that_breaks_a_promise_is_made_smaller() {
    let run = |options: &Options| {
        World::run(options.clone(), Sums { limit: Some(20), ..Sums::default() }).err()
    };
    let options = Options { nodes: 7, clients: 8, ..Options::swarm(5) };
    let broken = run(&options).expect("something is wrong");
    let shrunk = shrink(&options, &broken, 300, run);
    assert!(shrunk.options.steps < options.steps && shrunk.options.nodes < options.nodes);
    let again = run(&shrunk.options).expect("it still is");
    assert_eq!(again.to_string(), shrunk.broken.to_string());
}
