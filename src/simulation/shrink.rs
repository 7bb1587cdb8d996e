//! Makes a world that breaks a promise smaller, as long as it still breaks one.

use super::options::Options;
use super::witness::Broken;

/// A smaller world that breaks a promise, perhaps another one.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The world.
    pub options: Options,
    /// What it breaks.
    pub broken: Broken,
    /// How many worlds were tried.
    pub runs: u32,
}

/// Leaves out steps, kinds of trouble, nodes and clients, one after the other, and keeps what still breaks a
/// promise. `run` runs a world and says what it broke; at most `max_runs` are tried.
pub fn shrink(
    options: &Options,
    broken: &Broken,
    max_runs: u32,
    mut run: impl FnMut(&Options) -> Option<Broken>,
) -> Shrunk {
    let mut best = Shrunk { options: options.clone(), broken: broken.clone(), runs: 0 };
    loop {
        let candidates = smaller(&best);
        let before = best.runs;
        let found = candidates.into_iter().find_map(|candidate| {
            if best.runs >= max_runs {
                return None;
            }
            best.runs += 1;
            run(&candidate).map(|broken| (candidate, broken))
        });
        match found {
            Some((options, broken)) => best = Shrunk { options, broken, runs: best.runs },
            None => return best,
        }
        if best.runs == before {
            return best;
        }
    }
}

/// Worlds that are a little smaller.
fn smaller(of: &Shrunk) -> Vec<Options> {
    let Shrunk { options, broken, .. } = of;
    let mut candidates = Vec::new();
    let mut add = |change: &dyn Fn(&mut Options)| {
        let mut candidate = options.clone();
        change(&mut candidate);
        candidates.push(candidate);
    };
    if options.clients > 1 {
        add(&|smaller| smaller.clients = (smaller.clients / 2).max(1));
    }
    if options.nodes > 3 {
        add(&|smaller| smaller.nodes = if smaller.nodes > 5 { 5 } else { 3 });
    }
    for trouble in options.troubles.kinds() {
        add(&|smaller| smaller.troubles.set(trouble, 0));
    }
    // Last: with fewer events there is less room for the others to happen elsewhere.
    if broken.event() < options.steps {
        add(&|smaller| smaller.steps = broken.event());
    }
    if options.steps > 100 {
        add(&|smaller| smaller.steps /= 2);
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::super::Trouble;
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let mut options = Options { nodes: 7, clients: 12, ..Options::swarm(3) };
        options.troubles.set(Trouble::Crash, 10);
        options.troubles.set(Trouble::Loss, 10);
        // Breaks whenever there are crashes and at least five nodes.
        let run = |options: &Options| {
            let breaks = options.troubles.get(Trouble::Crash) > 0 && options.nodes >= 5;
            breaks.then(|| Broken::new("a promise").at(options.steps))
        };
        let broken = run(&options).expect("breaks");
        let shrunk = shrink(&options, &broken, 1000, run);
        assert_eq!(shrunk.options.troubles.kinds().collect::<Vec<_>>(), [Trouble::Crash]);
        assert_eq!((shrunk.options.nodes, shrunk.options.clients), (5, 1));
        assert!(shrunk.options.steps <= 100);
    }
}
