//! Dropout inside adapters, whose layers know no mode.

use std::cell::RefCell;

use mlx_core::{Array, ops::random};

use crate::{Dropout, Mode, Result};

thread_local! {
    /// Where the random keys of adapters come from; none outside training.
    static KEY: RefCell<Option<Array>> = const { RefCell::new(None) };
}

/// Runs `f` with the dropout of adapters at work, which draws from `key`; elsewhere adapters drop
/// nothing.
///
/// A model's `forward` knows no mode, so training opens this scope around it, on the same thread.
/// What [`checkpoint`](crate::checkpoint) runs again during the backward pass needs a scope of its
/// own inside. The keys are those that Python's MLX draws after `mx.random.seed`, given
/// [`key`](mlx_core::ops::random::key) of the same number.
///
/// ```
/// use mlx_core::{Array, ops::random};
/// use mlx_nn::{Linear, adapter::{AdapterOptions, add_adapters, with_dropout}};
///
/// let mut layer = Linear::new(4, 4, false)?;
/// add_adapters(&mut layer, AdapterOptions::default().dropout(0.1), |_| true)?;
/// let x = Array::ones::<f32>(&[1, 4])?;
/// let y = with_dropout(&random::key(0)?, || layer.forward(&x))?;
/// assert_eq!(y.shape(), [1, 4]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// What `f` reports.
pub fn with_dropout<T, E>(key: &Array, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let _restore = Restore(KEY.replace(Some(key.clone())));
    f()
}

struct Restore(Option<Array>);

impl Drop for Restore {
    fn drop(&mut self) {
        KEY.set(self.0.take());
    }
}

/// `x` after the dropout of an adapter.
pub(super) fn dropped(x: &Array, p: f32) -> Result<Array> {
    if p == 0.0 {
        return Ok(x.clone());
    }
    let Some(key) = KEY.with_borrow(Clone::clone) else {
        return Ok(x.clone());
    };
    let (next, own) = random::split(&key)?;
    KEY.set(Some(next));
    Dropout::new(p)?.forward(x, Mode::Train(&own))
}
