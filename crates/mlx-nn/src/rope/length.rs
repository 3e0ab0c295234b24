//! How long a sequence is going to be whose tokens come in several passes.

use std::cell::Cell;

thread_local! {
    static PLANNED: Cell<i32> = const { Cell::new(0) };
}

/// Runs a pass over a part of a sequence whose whole is known to have `length` positions.
///
/// Kinds of rotation that depend on the length of the sequence, longrope and dynamic scaling, then
/// choose for the whole, so that a prompt processed in chunks is rotated as one processed at once.
/// It holds for this thread, while `pass` runs, and for an [`Offset`](super::Offset) that the batch
/// shares; the longer of several nested lengths counts.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Rope, with_planned_length};
///
/// let rope = Rope::new(8, 10_000.0)?;
/// let chunk = Array::ones::<f32>(&[1, 2, 3, 8])?; // [B, heads, L, D]
/// let rotated = with_planned_length(4096, || rope.forward(&chunk, 0))?;
/// assert_eq!(rotated.shape(), chunk.shape());
/// # Ok::<(), mlx_nn::Error>(())
/// ```
pub fn with_planned_length<T>(length: i32, pass: impl FnOnce() -> T) -> T {
    /// Puts the outer plan back, also when the pass panics.
    struct Restore(i32);

    impl Drop for Restore {
        fn drop(&mut self) {
            PLANNED.set(self.0);
        }
    }

    let outer = PLANNED.get();
    let _restore = Restore(outer);
    PLANNED.set(outer.max(length));
    pass()
}

/// How long the sequence is after `length` positions from `start`, or will be.
pub(super) fn end(start: i32, length: i32) -> i32 {
    start.saturating_add(length).max(PLANNED.get())
}

#[cfg(test)]
mod tests {
    use super::{end, with_planned_length};

    #[test]
    fn the_plan_counts_while_it_is_longer_and_no_later() {
        assert_eq!(end(2, 3), 5);
        with_planned_length(9, || {
            assert_eq!((end(2, 3), end(8, 3)), (9, 11));
            with_planned_length(4, || assert_eq!(end(2, 3), 9));
            assert_eq!(end(2, 3), 9);
        });
        assert_eq!(end(2, 3), 5);
    }

    #[test]
    fn a_pass_that_panics_leaves_no_plan_behind() {
        let result = std::panic::catch_unwind(|| with_planned_length(9, || panic!("a pass")));
        assert!(result.is_err());
        assert_eq!(end(2, 3), 5);
    }
}
