//! MLX's allocator: how much memory it uses and may use. All sizes are bytes.

use crate::{Result, ffi};

macro_rules! readings {
    ($($(#[$docs:meta])* $name:ident => $binding:ident;)*) => {$(
        $(#[$docs])*
        ///
        /// # Errors
        /// [`Error::Backend`](crate::Error::Backend) if the back end fails.
        pub fn $name() -> Result<usize> {
            ffi::read_size(mlx_sys::$binding)
        }
    )*};
}

macro_rules! limits {
    ($($(#[$docs:meta])* $name:ident => $binding:ident;)*) => {$(
        $(#[$docs])*
        ///
        /// # Errors
        /// [`Error::Backend`](crate::Error::Backend) if the back end refuses the limit.
        pub fn $name(bytes: usize) -> Result<usize> {
            ffi::set_limit(mlx_sys::$binding, bytes)
        }
    )*};
}

readings! {
    /// Memory that live arrays hold.
    active_memory => memory_active;
    /// The most that [`active_memory`] has been since the start or [`reset_peak_memory`].
    peak_memory => memory_peak;
    /// Freed memory that MLX keeps for reuse.
    cache_memory => memory_cache;
    /// The limit of [`set_memory_limit`].
    memory_limit => memory_limit;
}

limits! {
    /// Sets how much memory may be in use before new work waits for old; returns the former limit.
    set_memory_limit => memory_set_limit;
    /// Sets how much freed memory is kept for reuse; returns the former limit.
    set_cache_limit => memory_set_cache_limit;
    /// Sets how much memory Metal may keep resident (macOS 15); returns the former limit.
    set_wired_limit => memory_set_wired_limit;
}

/// The bytes of the buffers behind these arrays, each buffer counted once; evaluates the arrays.
/// More than their elements take where the allocator rounds up or an array is part of a larger one.
///
/// # Errors
/// Whatever the computation reports.
pub fn array_buffer_size(arrays: &[&crate::Array]) -> Result<usize> {
    ffi::eval(arrays)?;
    ffi::buffer_size(arrays)
}

/// Starts a new measurement of [`peak_memory`].
///
/// # Errors
/// [`Error::Backend`](crate::Error::Backend) if the back end fails.
pub fn reset_peak_memory() -> Result<()> {
    ffi::plain_call(mlx_sys::memory_reset_peak)
}

/// Gives the memory kept for reuse back to the system.
///
/// # Errors
/// [`Error::Backend`](crate::Error::Backend) if pending work fails while it is waited for.
pub fn clear_cache() -> Result<()> {
    ffi::plain_call(mlx_sys::memory_clear_cache)
}
