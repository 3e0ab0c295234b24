//! Bringing in the bytes of mapped files before they are needed.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Threads that wait for the disk; more of them do not make it faster.
const THREADS: usize = 8;

/// Bytes that systems bring in together, at the least.
const PAGE: usize = 4096;

/// Makes something of each item with `make`, on the calling thread and in about this order, and
/// hands it to `visit` until that breaks. The bytes of each have been touched before, by other
/// threads, which stay a few items ahead.
pub(super) fn fetch_ahead<'n, T>(
    items: &[(&'n str, &[u8])],
    make: impl Fn(&'n str) -> T,
    mut visit: impl FnMut(&'n str, T) -> ControlFlow<()>,
) {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.min(THREADS).min(items.len());
    if threads < 2 {
        for (name, _) in items {
            if visit(name, make(name)).is_break() {
                return;
            }
        }
        return;
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Holds back threads that are far ahead, so that no page is gone again when it is its turn.
        let (sender, receiver) = sync_channel::<&'n str>(threads);
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some((name, bytes)) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    touch(bytes);
                    // Nobody listens any more once the visitor has broken off.
                    if sender.send(name).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for name in receiver {
            if visit(name, make(name)).is_break() {
                return;
            }
        }
    });
}

/// Reads a byte of every page.
fn touch(bytes: &[u8]) {
    let sum = bytes
        .iter()
        .step_by(PAGE)
        .fold(0_u8, |sum, &byte| sum ^ byte);
    black_box(sum);
}
