//! The threads that drive a node's loops, and knowing when they have ended.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::apply_loop::panic_message;
use super::inside::Inside;
use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::error::StopCause;
use crate::state_machine::StateMachine;
use crate::types::NodeId;
use crate::wake::Wakeup;

/// What Linux keeps of a thread's name.
const MAX_NAME_BYTES: usize = 15;

/// The threads of a node that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Running {
    names: Mutex<Vec<String>>,
    ended: Condvar,
}

impl Running {
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

    fn end(&self, name: &str) {
        self.names.lock().retain(|other| other != name);
        self.ended.notify_all();
    }
}

/// Starts a thread that drives `driven` until it is done.
pub(crate) fn spawn<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    running: &Arc<Running>,
    role: &str,
    driven: impl Loop + 'static,
    wakeup: Wakeup,
) -> io::Result<()> {
    let name = thread_name(shared.id, role);
    running.names.lock().push(name.clone());
    let thread = {
        let (shared, running, name) = (Arc::clone(shared), Arc::clone(running), name.clone());
        move || {
            let inside = Inside::enter(Arc::as_ptr(&shared) as usize);
            let mut driven = driven;
            let stop = |panic: Box<dyn Any + Send>| {
                let message = panic_message(&*panic);
                let cause = StopCause::Panicked { thread: name.clone(), message };
                shared.stop(Phase::Halted, cause);
            };
            let drive = AssertUnwindSafe(|| drive(&shared, &mut driven, wakeup));
            if let Err(panic) = panic::catch_unwind(drive) {
                stop(panic);
            }
            // The loop goes after the cause is known, which it tells whoever waits for it, and before
            // anybody hears that the thread has ended.
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(driven))) {
                stop(panic);
            }
            drop(inside);
            // The last reference may be this one, and the user's state go with it, whose drop may panic.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(shared)));
            running.end(&name);
        }
    };
    let spawned = thread::Builder::new().name(name.clone()).spawn(thread);
    if spawned.is_err() {
        running.end(&name);
    }
    spawned.map(drop)
}

/// The end of an id that is too long tells more than the end of the name would.
fn thread_name(id: NodeId, role: &str) -> String {
    let id = id.to_string();
    let room = MAX_NAME_BYTES - "n-".len() - role.len();
    format!("n{}-{role}", &id[id.len().saturating_sub(room)..])
}

fn drive<S: StateMachine>(shared: &Shared<S>, driven: &mut impl Loop, mut wakeup: Wakeup) {
    loop {
        match driven.step(shared.clock.now()) {
            Wait::No => {}
            Wait::Wake => wakeup.wait(None),
            Wait::Until(moment) => wakeup.wait(Some(moment.since(shared.clock.now()))),
            Wait::Done => return,
        }
    }
}
