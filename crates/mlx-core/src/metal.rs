//! What only Metal has: captures for Xcode, and the place of its kernels.

use std::path::{Path, PathBuf};

use crate::kernel::KernelBackend;
use crate::{Error, Result, ffi};

/// Whether MLX was built with Metal.
///
/// # Errors
/// None in practice.
pub fn is_available() -> Result<bool> {
    KernelBackend::Metal.is_built()
}

fn require(what: &str) -> Result<()> {
    if is_available()? {
        Ok(())
    } else {
        Err(Error::Unsupported(format!(
            "{what}: this build of MLX has no metal back end"
        )))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::Unsupported(format!("the path {} is not UTF-8", path.display())))
}

/// Starts a capture of the GPU's work into `path`, an absolute path that ends in `.gputrace`. The
/// process must run with `MTL_CAPTURE_ENABLED=1`.
///
/// # Errors
/// [`Error::Unsupported`] without Metal; [`Error::Backend`] if Metal refuses.
pub fn start_capture(path: impl AsRef<Path>) -> Result<()> {
    require("start_capture")?;
    ffi::kernel::start_capture(text(path.as_ref())?)
}

/// Ends the capture.
///
/// # Errors
/// [`Error::Unsupported`] without Metal.
pub fn stop_capture() -> Result<()> {
    require("stop_capture")?;
    ffi::plain_call(mlx_sys::metal_stop_capture)
}

/// Says where `mlx.metallib` lies. Must come before anything else of MLX.
///
/// # Errors
/// [`Error::Unsupported`] without Metal; [`Error::Backend`] if Metal is in use already or cannot
/// load the file.
pub fn set_metallib_path(path: impl AsRef<Path>) -> Result<()> {
    require("set_metallib_path")?;
    ffi::kernel::set_library_path(text(path.as_ref())?)
}

/// The path given to [`set_metallib_path`], or an empty one.
///
/// # Errors
/// [`Error::Unsupported`] without Metal.
pub fn metallib_path() -> Result<PathBuf> {
    require("metallib_path")?;
    ffi::kernel::library_path().map(PathBuf::from)
}
