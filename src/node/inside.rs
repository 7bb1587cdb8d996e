//! Notices a call that would wait for itself.
//!
//! A closure that reads the state holds the state's lock, and `apply` runs on the thread that answers: a
//! proposal or a read from there, to the same node, could never be answered. Each thread therefore
//! remembers inside which nodes it is.

use std::cell::RefCell;

use crate::sync;

sync::thread_local! {
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks the current thread as being inside a node, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside(());

impl Inside {
    /// The node is named by the address of what its threads share.
    pub(crate) fn enter(node: usize) -> Self {
        INSIDE.with(|inside| inside.borrow_mut().push(node));
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.borrow_mut().pop());
    }
}

/// Whether the current thread is inside that node.
pub(crate) fn is_inside(node: usize) -> bool {
    INSIDE.with(|inside| inside.borrow().contains(&node))
}
