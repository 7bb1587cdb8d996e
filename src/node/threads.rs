//! The threads that drive a node's loops, and what becomes of the node when one of them panics.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::apply_loop::panic_message;
use super::inside::Inside;
use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::error::StopCause;
use crate::state_machine::StateMachine;
use crate::threads::{Running, thread_name};
use crate::wake::Wakeup;

/// Starts a thread that drives `driven` until it is done.
pub(crate) fn spawn<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    running: &Arc<Running>,
    role: &str,
    driven: impl Loop + 'static,
    wakeup: Wakeup,
) -> io::Result<()> {
    let name = thread_name(shared.id, role, None);
    let thread = {
        let (shared, name) = (Arc::clone(shared), name.clone());
        move || {
            let inside = Inside::enter(Arc::as_ptr(&shared) as usize);
            let mut driven = driven;
            let drive = AssertUnwindSafe(|| drive(&shared, &mut driven, wakeup));
            if let Err(panic) = panic::catch_unwind(drive) {
                panicked(&shared, &name, &*panic);
            }
            // The loop goes after the cause is known, which it tells whoever waits for it, and before
            // anybody hears that the thread has ended.
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(driven))) {
                panicked(&shared, &name, &*panic);
            }
            drop(inside);
            // The last reference may be this one, and the user's state go with it, whose drop may panic.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(shared)));
        }
    };
    running.spawn(name, thread)
}

/// Stops the node because its thread `name` panicked.
pub(super) fn panicked<S: StateMachine>(shared: &Shared<S>, name: &str, panic: &(dyn Any + Send)) {
    let cause = StopCause::Panicked { thread: name.to_owned(), message: panic_message(panic) };
    shared.stop(Phase::Halted, cause);
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
