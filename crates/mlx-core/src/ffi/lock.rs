//! The lock around MLX's host side.
//!
//! MLX builds and schedules graphs without synchronisation of its own: evaluating an array rewrites
//! its description, and dropping one walks its neighbours. Every call into the shim that is not
//! marked lock-free there is therefore made under one process-wide lock. A thread that already
//! holds it passes through, and it is released while a user's closure runs, so that a closure may
//! wait for other threads that use arrays.

use std::cell::Cell;
use std::marker::PhantomData;

use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;

static MUTEX: RawMutex = RawMutex::INIT;

thread_local! {
    /// How many guards this thread has; it holds the mutex iff this is not zero.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct Guard {
    // Must be dropped on the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// Takes the lock, or passes through on a thread that holds it.
#[inline]
pub fn lock() -> Guard {
    DEPTH.with(|depth| {
        let held = depth.get();
        if held == 0 {
            MUTEX.lock();
        }
        depth.set(held + 1);
    });
    Guard {
        _not_send: PhantomData,
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        DEPTH.with(|depth| {
            let held = depth.get() - 1;
            depth.set(held);
            if held == 0 {
                // SAFETY: the depth was not zero, so this thread holds the mutex.
                unsafe { MUTEX.unlock() };
            }
        });
    }
}

/// Runs `f` without the lock, for code that is not ours: user closures and their destructors.
pub fn unlocked<T>(f: impl FnOnce() -> T) -> T {
    struct Relock(u32);
    impl Drop for Relock {
        fn drop(&mut self) {
            if self.0 > 0 {
                MUTEX.lock();
            }
            DEPTH.with(|depth| depth.set(self.0));
        }
    }
    let held = DEPTH.with(|depth| depth.replace(0));
    if held > 0 {
        // SAFETY: the depth was not zero, so this thread holds the mutex.
        unsafe { MUTEX.unlock() };
    }
    let _relock = Relock(held);
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_guards_release_once() {
        let outer = lock();
        let inner = lock();
        drop(inner);
        unlocked(|| {
            // Another thread gets the lock meanwhile; it would hang if ours were still held.
            std::thread::scope(|scope| {
                scope.spawn(|| drop(lock()));
            });
        });
        drop(outer);
        assert_eq!(DEPTH.with(Cell::get), 0);
    }
}
