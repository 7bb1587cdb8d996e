//! The threads of one node: named alike, counted, and waited for together.
//!
//! Whoever starts a thread for a node starts it here, so that a shutdown knows what still runs.

use std::io;
use std::sync::Arc;

use crate::sync::{Condvar, Instant, Mutex, thread};
use crate::types::NodeId;

/// What Linux keeps of a thread's name.
const MAX_NAME_BYTES: usize = 15;

/// The threads of a node that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Running {
    names: Mutex<Vec<String>>,
    ended: Condvar,
}

impl Running {
    /// Starts a thread that counts until `work` returns or unwinds.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.names.lock().push(name.clone());
        let counted = Counted { running: Arc::clone(self), name: name.clone() };
        // If there is no thread, the closure is dropped here, and what it counted with it.
        let thread = move || {
            let _counted = counted;
            work();
        };
        thread::Builder::new().name(name).spawn(thread).map(drop)
    }

    /// Waits until all have ended, until `deadline` at most; returns those that have not.
    pub(crate) fn wait(&self, deadline: Instant) -> Vec<String> {
        let mut names = self.names.lock();
        while !names.is_empty() {
            if self.ended.wait_until(&mut names, deadline).timed_out() {
                break;
            }
        }
        names.clone()
    }

    /// The threads that run now.
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.lock().clone()
    }
}

/// One thread that runs.
struct Counted {
    running: Arc<Running>,
    name: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut names = self.running.names.lock();
        // Shortened names may be alike; only one of them ends here.
        if let Some(at) = names.iter().position(|other| *other == self.name) {
            names.swap_remove(at);
        }
        drop(names);
        self.running.ended.notify_all();
    }
}

/// The name of a node's thread. Of ids that are too long the end is kept, which tells more than the end
/// of the name would.
pub(crate) fn thread_name(id: NodeId, role: &str, peer: Option<NodeId>) -> String {
    let room = MAX_NAME_BYTES - "n-".len() - role.len();
    let peer = peer.map_or(String::new(), |peer| peer.to_string());
    let id = id.to_string();
    let peer = last_bytes(&peer, room - id.len().min(room / 2));
    format!("n{}-{role}{peer}", last_bytes(&id, room - peer.len()))
}

fn last_bytes(digits: &str, most: usize) -> &str {
    &digits[digits.len().saturating_sub(most)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_named_for_its_node_its_role_and_its_peer_within_what_linux_keeps() {
        let name = |id, role, peer: Option<u64>| thread_name(NodeId(id), role, peer.map(NodeId));
        assert_eq!(name(7, "core", None), "n7-core");
        assert_eq!(name(7, "tx", Some(12)), "n7-tx12");
        assert_eq!(name(u64::MAX, "core", None), "n709551615-core");
        assert_eq!(name(7, "rx", Some(u64::MAX)), "n7-rx3709551615");
        assert_eq!(name(u64::MAX, "rx", Some(7)), "n3709551615-rx7");
        assert_eq!(name(u64::MAX, "rx", Some(u64::MAX)), "n51615-rx551615");
        for (id, peer) in [(u64::MAX, u64::MAX), (0, u64::MAX), (123_456, 1_234_567)] {
            assert!(name(id, "accept", Some(peer)).len() <= MAX_NAME_BYTES);
        }
    }

    #[test]
    fn threads_with_the_same_name_are_counted_one_by_one() {
        let running = Arc::<Running>::default();
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        running.spawn("same".to_owned(), || {}).expect("starts");
        let held = move || assert!(wait.recv().is_err());
        running.spawn("same".to_owned(), held).expect("starts");
        while running.names().len() > 1 {
            thread::yield_now();
        }
        assert_eq!(running.names(), ["same"]);
        drop(go);
        assert!(running.wait(Instant::now() + std::time::Duration::from_secs(60)).is_empty());
    }
}
