//! Streams: queues of work on a device.

use crate::{Device, Result, ffi};

/// A queue of work on a [`Device`]. Work on one stream runs in order, work on different streams
/// may run at the same time; MLX orders what depends on each other.
///
/// All threads share one default stream for each device. A new stream on the CPU brings an
/// operating-system thread that lives as long as the process, so make few and keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    pub(crate) index: i32,
    pub(crate) device: Device,
}

impl Stream {
    /// A new stream on `device`, for any thread to use.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if there is no such device.
    pub fn new(device: Device) -> Result<Self> {
        ffi::runtime::new_stream(device)
    }

    /// The stream on which the calling thread's operations run now.
    pub fn current() -> Self {
        ffi::runtime::current_stream()
    }

    /// The stream that all threads share on `device`.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if there is no such device.
    pub fn default_for(device: Device) -> Result<Self> {
        ffi::runtime::shared_stream(device)
    }

    /// All streams of the process, among them those that this library made for itself.
    ///
    /// # Errors
    /// None in practice.
    pub fn all() -> Result<Vec<Self>> {
        ffi::runtime::streams()
    }

    /// The device of the stream.
    pub fn device(self) -> Device {
        self.device
    }

    /// Runs `f` with this stream as the calling thread's default. Scopes nest; the former default
    /// returns also when `f` fails or panics.
    ///
    /// ```
    /// use mlx_core::{Array, Device, Stream};
    ///
    /// let stream = Stream::new(Device::cpu())?;
    /// let y = stream.scope(|| Array::ones::<f32>(&[2])?.exp())?;
    /// assert_eq!(y.shape(), [2]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Whatever `f` returns.
    pub fn scope<T>(self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let _restore = ffi::runtime::enter_scope(self);
        f()
    }

    /// Waits until all work given to the stream so far is done.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) if some of that work failed.
    pub fn synchronize(self) -> Result<()> {
        ffi::runtime::synchronize(self)
    }
}
