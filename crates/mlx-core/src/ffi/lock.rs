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

/// One acquisition, in the upper half of [`HELD`].
const ACQUIRED: u64 = 1 << 32;

thread_local! {
    /// Lower half: how many guards this thread has; it holds the mutex iff that is not zero.
    /// Upper half: how often it has taken the mutex, which costs nothing to count here.
    static HELD: Cell<u64> = const { Cell::new(0) };
}

fn guards(held: u64) -> u64 {
    held % ACQUIRED
}

/// How often the calling thread has taken the lock, modulo 2³². For benches.
pub fn acquisitions() -> u64 {
    HELD.get() / ACQUIRED
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
    let held = HELD.get();
    if guards(held) == 0 {
        MUTEX.lock();
        HELD.set(held.wrapping_add(ACQUIRED + 1));
    } else {
        HELD.set(held + 1);
    }
    Guard {
        _not_send: PhantomData,
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        let held = HELD.get() - 1;
        HELD.set(held);
        if guards(held) == 0 {
            // SAFETY: the count was not zero, so this thread holds the mutex.
            unsafe { MUTEX.unlock() };
        }
    }
}

/// Runs `f` without the lock, for code that is not ours: user closures and their destructors.
pub fn unlocked<T>(f: impl FnOnce() -> T) -> T {
    struct Relock(u64);
    impl Drop for Relock {
        fn drop(&mut self) {
            if self.0 > 0 {
                MUTEX.lock();
                HELD.set(HELD.get().wrapping_add(ACQUIRED + self.0));
            }
        }
    }
    let held = HELD.get();
    let mine = guards(held);
    HELD.set(held - mine);
    if mine > 0 {
        // SAFETY: the count was not zero, so this thread holds the mutex.
        unsafe { MUTEX.unlock() };
    }
    let _relock = Relock(mine);
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_guards_release_once() {
        let before = acquisitions();
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
        assert_eq!(guards(HELD.get()), 0);
        // Once at first, and once after the code without it.
        assert_eq!(acquisitions() - before, 2);
    }
}
