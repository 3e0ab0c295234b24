//! The thread that a function must not leave.
//!
//! An array may be sent to another thread together with its graph, and the graph of a custom
//! function holds the caller's closures, which need not be `Send`. Such a closure is called on its
//! own thread only, and if its last owner goes elsewhere it is sent home to be dropped there.

use std::sync::{Arc, Mutex, PoisonError};

/// A thread's letter box for functions that were released elsewhere.
pub(super) struct Home {
    /// `None` when the thread has ended: what arrives later is never dropped.
    returned: Mutex<Option<Vec<Stray>>>,
}

/// Anything, on the way to the thread that may drop it.
struct Stray(#[expect(dead_code, reason = "dropped, never read")] Box<dyn Droppable>);

// SAFETY: a stray is only moved until it is back on its own thread, or else forgotten.
unsafe impl Send for Stray {}

trait Droppable {}
impl<T> Droppable for T {}

struct Owner(Arc<Home>);

impl Drop for Owner {
    fn drop(&mut self) {
        let strays = self.0.take(false);
        drop(strays);
    }
}

thread_local! {
    static HOME: Owner = Owner(Arc::new(Home {
        returned: Mutex::new(Some(Vec::new())),
    }));
}

impl Home {
    /// The calling thread's. What came back to it in the meantime is dropped.
    pub(super) fn current() -> Arc<Home> {
        match HOME.try_with(|owner| Arc::clone(&owner.0)) {
            Ok(home) => {
                drop(home.take(true));
                home
            }
            // The thread is ending: a home to which nobody ever returns.
            Err(_) => Arc::new(Home {
                returned: Mutex::new(None),
            }),
        }
    }

    /// Whether this is the calling thread's.
    pub(super) fn is_here(&self) -> bool {
        HOME.try_with(|owner| std::ptr::eq(Arc::as_ptr(&owner.0), self))
            .unwrap_or(false)
    }

    /// Hands `stray` to the thread, or leaks it if that has ended.
    pub(super) fn send<T: 'static>(&self, stray: Box<T>) {
        let stray = Stray(stray);
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        match returned.as_mut() {
            Some(list) => list.push(stray),
            None => std::mem::forget(stray),
        }
    }

    fn take(&self, open: bool) -> Vec<Stray> {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        let next = open.then(Vec::new);
        std::mem::replace(&mut *returned, next).unwrap_or_default()
    }
}
