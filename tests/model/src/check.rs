//! The model as stateright knows it, and one run of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use crate::bounds::Bounds;
use crate::plants::Plant;
use crate::rules::Sight;
use crate::state::State;
use crate::step::Action;

/// A model: the core within bounds, perhaps with a bug.
#[derive(Debug)]
pub(crate) struct Cluster {
    bounds: Bounds,
    plant: Option<Plant>,
    /// The sights that were seen: once is enough, and the checker would note each time how it got there.
    seen: [AtomicBool; Sight::ALL.len()],
}

const ALL_RULES: &str = "all rules hold";

fn is_seen<const SIGHT: usize>(cluster: &Cluster, state: &State) -> bool {
    let seen = &cluster.seen[SIGHT];
    !seen.load(Ordering::Relaxed)
        && Sight::ALL[SIGHT].is_in(state)
        && !seen.swap(true, Ordering::Relaxed)
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(&self.bounds, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        state.take(&self.bounds, self.plant, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Conditions are plain functions: one for each place in the list.
        let sights: [fn(&Self, &State) -> bool; Sight::ALL.len()] = [
            is_seen::<0>,
            is_seen::<1>,
            is_seen::<2>,
            is_seen::<3>,
            is_seen::<4>,
            is_seen::<5>,
            is_seen::<6>,
            is_seen::<7>,
            is_seen::<8>,
            is_seen::<9>,
            is_seen::<10>,
            is_seen::<11>,
            is_seen::<12>,
            is_seen::<13>,
            is_seen::<14>,
            is_seen::<15>,
            is_seen::<16>,
            is_seen::<17>,
        ];
        let sometimes = sights
            .iter()
            .zip(Sight::ALL)
            .filter(|(_, sight)| self.bounds.sights.contains(sight))
            .map(|(is_seen, sight)| Property::sometimes(sight.says(), *is_seen));
        // With a bug, other rules may break before the one that it is known by.
        let always =
            Property::always(ALL_RULES, |cluster: &Self, state: &State| match cluster.plant {
                Some(plant) => !state.broken.has(plant.breaks()),
                None => state.broken.is_empty(),
            });
        sometimes.chain([always]).collect()
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// How a rule was broken.
    pub(crate) broken: Option<Vec<(State, Option<Action>)>>,
    /// Sights that were not seen.
    pub(crate) missing: Vec<&'static str>,
}

/// Goes through all states, or until a rule is broken.
pub(crate) fn run(bounds: Bounds, plant: Option<Plant>, threads: usize) -> Outcome {
    let began = Instant::now();
    let cluster = Cluster { bounds, plant, seen: Default::default() };
    let checker = cluster.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let mut found = checker.discoveries();
    let broken = found.remove(ALL_RULES).map(Path::into_vec);
    let sights = bounds.sights.iter().map(|sight| sight.says());
    Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        broken,
        missing: sights.filter(|sight| !found.contains_key(sight)).collect(),
    }
}
