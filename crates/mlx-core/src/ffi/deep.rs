//! A deep stack for MLX's recursive walks.
//!
//! MLX's transforms follow a graph by recursion, one call for each operation of a chain, and Rust's
//! threads have stacks of 2 MiB. Transforms therefore run on a stack of their own: address space
//! that takes memory only where it is touched. The thread stays the same, and with it everything
//! that MLX keeps for each thread. A graph that is too deep even for that is refused before the
//! walk begins.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What one level of the deepest walk takes, about twice what was measured.
const BYTES_PER_LEVEL: usize = 640;
/// Tried in this order; the smaller ones are for processes with limited address space.
const SIZES: [usize; 4] = [1 << 30, 1 << 28, 1 << 26, 1 << 24];
/// What is left of an ordinary thread's stack at least, where no other can be had.
const ORDINARY_ROOM: usize = 1 << 20;
/// Deeper graphs leave so much of the stack in memory that it is given back.
const DEEP: usize = 10_000;

thread_local! {
    /// The lowest address that the current deep call may use; zero outside.
    static FLOOR: Cell<usize> = const { Cell::new(0) };
    static TOUCHED: Cell<bool> = const { Cell::new(false) };
    static STACK: RefCell<Option<Stack>> = const { RefCell::new(None) };
}

/// Runs `f` with room for deep recursion.
pub fn deep<T>(f: impl FnOnce() -> T) -> T {
    if FLOOR.with(Cell::get) != 0 {
        return f();
    }
    let stack = STACK
        .try_with(|cached| cached.borrow_mut().take())
        .ok()
        .flatten()
        .or_else(Stack::new);
    let here = std::ptr::from_ref(&stack).addr();
    let floor = stack
        .as_ref()
        .map_or(here.saturating_sub(ORDINARY_ROOM), Stack::floor);
    FLOOR.with(|cell| cell.set(floor));
    // A panic must not unwind from one stack to the other, and the floor is reset in any case.
    let guarded = AssertUnwindSafe(|| catch_unwind(AssertUnwindSafe(f)));
    let result = match &stack {
        Some(stack) => stack.run(guarded.0),
        None => guarded.0(),
    };
    FLOOR.with(|cell| cell.set(0));
    if let Some(stack) = stack {
        if TOUCHED.with(|touched| touched.replace(false)) {
            stack.give_back();
        }
        // A thread that is ending has no place for it any more, and then it is freed.
        let _ = STACK.try_with(|cached| cached.replace(Some(stack)));
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Whether a walk of `levels` fits on what is left of the stack. Always true outside [`deep`],
/// where nothing walks.
pub fn fits(levels: usize) -> bool {
    let floor = FLOOR.with(Cell::get);
    if floor == 0 {
        return true;
    }
    if levels > DEEP {
        TOUCHED.with(|touched| touched.set(true));
    }
    let here = std::ptr::from_ref(&floor).addr();
    levels.saturating_mul(BYTES_PER_LEVEL) <= here.saturating_sub(floor)
}

#[cfg(unix)]
struct Stack {
    base: *mut u8,
    size: usize,
    page: usize,
}

#[cfg(unix)]
impl Stack {
    fn new() -> Option<Self> {
        // SAFETY: a question without arguments.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        SIZES.into_iter().find_map(|size| {
            // SAFETY: new, private address space; nothing else refers to it.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    size,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if base == libc::MAP_FAILED {
                return None;
            }
            let stack = Stack {
                base: base.cast(),
                size,
                page,
            };
            // SAFETY: the first page of the mapping above; whoever overruns the stack stops there.
            let guarded = unsafe { libc::mprotect(base, page, libc::PROT_NONE) } == 0;
            guarded.then_some(stack)
        })
    }

    fn floor(&self) -> usize {
        // Room for what the last call of a walk itself calls.
        self.base.addr() + self.page + (256 << 10).min(self.size / 4)
    }

    fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        psm::psm_stack_manipulation! {
            yes {
                // SAFETY: the mapping is aligned to pages, readable and writable above its guard
                // page, used by no other call (`deep` takes it out of its place), and `f` does not
                // unwind.
                unsafe { psm::on_stack(self.base.add(self.page), self.size - self.page, f) }
            }
            no {
                f()
            }
        }
    }

    fn give_back(&self) {
        // SAFETY: nothing on the stack is alive; its content becomes zeros.
        unsafe {
            libc::madvise(
                self.base.add(self.page).cast(),
                self.size - self.page,
                libc::MADV_DONTNEED,
            );
        }
    }
}

#[cfg(unix)]
impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once, and nothing runs on it.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

#[cfg(not(unix))]
struct Stack;

#[cfg(not(unix))]
impl Stack {
    fn new() -> Option<Self> {
        None
    }
    fn floor(&self) -> usize {
        0
    }
    fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        f()
    }
    fn give_back(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurse(levels: usize) -> usize {
        let frame = std::hint::black_box([levels; 64]);
        if levels == 0 {
            0
        } else {
            recurse(levels - 1) + frame[0] / levels
        }
    }

    #[test]
    fn deep_calls_have_room_and_nest() {
        let depth = std::thread::spawn(|| deep(|| deep(|| recurse(200_000))))
            .join()
            .unwrap();
        assert_eq!(depth, 200_000);
        assert!(deep(|| fits(1_000_000)));
        assert!(!deep(|| fits(usize::MAX)));
        assert!(fits(usize::MAX));
    }

    #[test]
    fn panics_come_back() {
        assert!(catch_unwind(|| deep(|| panic!("inside"))).is_err());
        assert_eq!(FLOOR.with(Cell::get), 0);
    }
}
