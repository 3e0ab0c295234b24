//! Devices: where streams run.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Result, Stream, ffi};

/// The kind of a [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceType {
    /// The processor.
    Cpu,
    /// Metal on macOS, CUDA on Linux.
    Gpu,
}

/// A place where operations run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// The kind.
    pub device_type: DeviceType,
    /// Which one of its kind, from zero.
    pub index: i32,
}

/// A property of a device; see [`Device::info`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceInfo {
    /// A name.
    Text(String),
    /// A number; bytes where the key says memory.
    Number(u64),
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device {
            device_type: DeviceType::Cpu,
            index: 0,
        }
    }

    /// The first GPU, whether or not there is one.
    pub fn gpu() -> Self {
        Device {
            device_type: DeviceType::Gpu,
            index: 0,
        }
    }

    /// The device that operations use outside any [`Stream::scope`]: the first GPU where there is
    /// one, else the CPU, until [`set_default`](Device::set_default) says otherwise.
    pub fn default_device() -> Self {
        ffi::runtime::default_device()
    }

    /// Makes this device the default of the whole process.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if there is no such device.
    pub fn set_default(self) -> Result<()> {
        ffi::runtime::set_default_device(self)
    }

    /// How many devices of this kind there are.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) if the driver fails.
    pub fn count(device_type: DeviceType) -> Result<usize> {
        ffi::runtime::device_count(device_type)
    }

    /// Whether the device exists on this machine and in this build of MLX.
    pub fn is_available(self) -> bool {
        Self::count(self.device_type)
            .is_ok_and(|count| usize::try_from(self.index).is_ok_and(|index| index < count))
    }

    /// What the back end tells of the device: name, architecture, memory in bytes, ….
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if there is no such device.
    pub fn info(self) -> Result<BTreeMap<String, DeviceInfo>> {
        ffi::runtime::device_info(self)
    }

    /// Runs `f` with this device's default stream as the default of the calling thread.
    ///
    /// # Errors
    /// Whatever `f` returns, or [`Error::Unsupported`](crate::Error::Unsupported) if there is no
    /// such device.
    pub fn scope<T>(self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        Stream::default_for(self)?.scope(f)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.device_type {
            DeviceType::Cpu => "cpu",
            DeviceType::Gpu => "gpu",
        };
        write!(f, "{name}:{}", self.index)
    }
}
