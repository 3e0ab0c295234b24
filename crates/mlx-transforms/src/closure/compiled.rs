//! Compiled graphs and the threads' caches that hold them.
//!
//! MLX keeps compiled graphs in a cache for each thread, keyed by a number. Three things follow:
//!
//! - the number is never used twice, so that no function gets another's graph;
//! - a function that goes is forgotten in the cache of every thread that called it;
//! - a thread's cache is emptied under the lock when the thread ends, because arrays are dropped
//!   under the lock.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mlx_core::ffi;
use mlx_core::{Array, Result};

use super::{Closure, run};

/// Begins far from the addresses that MLX uses as keys for functions of its own.
static NEXT_ID: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 2));

/// One thread's cache.
#[derive(Debug)]
struct Cache {
    raw: mlx_sys::compile_cache,
}

// SAFETY: touched under the lock only, and counted atomically.
unsafe impl Send for Cache {}
// SAFETY: as above.
unsafe impl Sync for Cache {}

impl Cache {
    /// The calling thread's. `None` if the thread is ending.
    fn current() -> Option<Arc<Cache>> {
        CACHE
            .try_with(|slot| {
                let mut slot = slot.borrow_mut();
                if slot.is_none() {
                    let mut raw = mlx_sys::compile_cache { ctx: null_mut() };
                    // SAFETY: `raw` is valid for writes.
                    run("compile", &[], |error| unsafe {
                        mlx_sys::compile_cache_hold(&raw mut raw, error)
                    })
                    .ok()?;
                    *slot = Some(Arc::new(Cache { raw }));
                }
                slot.clone()
            })
            .ok()
            .flatten()
    }

    fn erase(&self, id: usize) {
        // Forgetting cannot fail.
        // SAFETY: a live handle.
        let _ = run("compile", &[], |error| unsafe {
            mlx_sys::compile_cache_erase(self.raw, id, error)
        });
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _guard = ffi::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::compile_cache_free(self.raw) };
    }
}

thread_local! {
    static CACHE: RefCell<Option<Arc<Cache>>> = const { RefCell::new(None) };
    /// The compiled functions that this thread is in the middle of calling.
    static RUNNING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A compiled function of type `F`.
#[derive(Debug)]
pub(crate) struct Compiled<F> {
    plain: Closure,
    /// How often the function itself has run.
    runs: Arc<AtomicUsize>,
    compiled: Closure,
    id: usize,
    caches: Mutex<Vec<Weak<Cache>>>,
    function: PhantomData<F>,
}

// SAFETY: a handle of an `F` and of graphs, which are touched under the lock only; `F` may move.
unsafe impl<F: Send> Send for Compiled<F> {}
// SAFETY: as above, and `F` may be called from several threads.
unsafe impl<F: Send + Sync> Sync for Compiled<F> {}

impl<F> Compiled<F>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    pub(crate) fn new(f: F, shapeless: bool) -> Result<Self> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let plain = Closure::new(move |inputs: &[Array]| {
            count.fetch_add(1, Ordering::Relaxed);
            f(inputs)
        })?;
        let compiled = plain.compile(id, shapeless)?;
        Ok(Compiled {
            plain,
            runs,
            compiled,
            id,
            caches: Mutex::new(Vec::new()),
            function: PhantomData,
        })
    }
}

impl<F> Compiled<F> {
    pub(crate) fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let running = RUNNING.with_borrow(|running| running.contains(&self.id));
        // MLX holds on to its place in the cache while it traces, and a second call of the same
        // function would move it.
        let cache = if running { None } else { Cache::current() };
        let Some(cache) = cache else {
            return self.plain.call(inputs);
        };
        self.remember(&cache);
        let _leave = Enter::new(self.id);
        let before = self.runs.load(Ordering::Relaxed);
        let result = self.compiled.call(inputs);
        if result.is_err() && self.runs.load(Ordering::Relaxed) != before {
            // A failed trace leaves an empty entry behind. A good one stays that was replayed for
            // shapes it cannot serve: the next call must not depend on that.
            cache.erase(self.id);
        }
        result
    }

    fn remember(&self, cache: &Arc<Cache>) {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let known = caches
            .iter()
            .any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(cache)));
        if !known {
            caches.retain(|other| other.strong_count() > 0);
            caches.push(Arc::downgrade(cache));
        }
    }
}

impl<F> Drop for Compiled<F> {
    fn drop(&mut self) {
        let caches = self
            .caches
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for cache in caches.drain(..).filter_map(|cache| cache.upgrade()) {
            cache.erase(self.id);
        }
    }
}

/// Marks a function as running until dropped.
struct Enter;

impl Enter {
    fn new(id: usize) -> Self {
        RUNNING.with_borrow_mut(|running| running.push(id));
        Enter
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(Vec::pop);
    }
}
