//! Functions in files: MLX's exporter and importer.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::fmt;
use std::path::Path;
use std::ptr::null_mut;

use mlx_core::ffi::{self, ArrayList};
use mlx_core::{Array, Error, Result};

use super::{Closure, run};

/// Names and arrays in the order of the names, as the shim wants them.
struct Keywords {
    names: Vec<CString>,
    arrays: Vec<Array>,
}

impl Keywords {
    fn new(keywords: &BTreeMap<String, Array>) -> Result<Self> {
        let names = keywords
            .keys()
            .map(|name| text("a keyword", name))
            .collect::<Result<_>>()?;
        Ok(Keywords {
            names,
            arrays: keywords.values().cloned().collect(),
        })
    }

    fn pointers(&self) -> Vec<*const c_char> {
        self.names.iter().map(|name| name.as_ptr()).collect()
    }
}

fn text(what: &str, value: &str) -> Result<CString> {
    CString::new(value)
        .map_err(|_| Error::Unsupported(format!("{what} contains a zero byte: {value:?}")))
}

/// MLX takes paths as text.
fn path_text(path: &Path) -> Result<CString> {
    let value = path.to_str().ok_or_else(|| {
        Error::Unsupported(format!("{}: the path is not valid UTF-8", path.display()))
    })?;
    text("a path", value)
}

/// A file that traces are being written to.
#[derive(Debug)]
pub(crate) struct RawExporter {
    raw: mlx_sys::exporter,
}

impl RawExporter {
    pub(crate) fn new(
        path: &Path,
        closure: &Closure,
        shapeless: bool,
        metadata: &str,
    ) -> Result<Self> {
        let path = path_text(path)?;
        let mut raw = mlx_sys::exporter { ctx: null_mut() };
        run("export_function", &[], |error| {
            // SAFETY: a NUL-terminated path, a live handle that MLX copies, and a text with its
            // true length.
            unsafe {
                mlx_sys::exporter_new(
                    &raw mut raw,
                    path.as_ptr(),
                    closure.raw,
                    shapeless,
                    metadata.as_ptr().cast(),
                    metadata.len(),
                    error,
                )
            }
        })?;
        Ok(RawExporter { raw })
    }

    /// Must not be called again after an error.
    pub(crate) fn trace(&self, args: &[Array], keywords: &BTreeMap<String, Array>) -> Result<()> {
        let keywords = Keywords::new(keywords)?;
        let names = keywords.pointers();
        run("export_function", args, |error| {
            // SAFETY: a live handle; arrays and NUL-terminated names with their true counts.
            unsafe {
                mlx_sys::exporter_trace(
                    self.raw,
                    args.as_ptr().cast(),
                    args.len(),
                    names.as_ptr(),
                    keywords.arrays.as_ptr().cast(),
                    names.len(),
                    error,
                )
            }
        })
    }
}

impl Drop for RawExporter {
    fn drop(&mut self) {
        let _guard = ffi::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::exporter_free(self.raw) };
    }
}

/// A function read from a file; made by [`import_function`]. Any thread may call it.
pub struct ImportedFunction {
    raw: mlx_sys::imported,
}

// SAFETY: the handle owns graphs, which are touched under the lock only, and no closures.
unsafe impl Send for ImportedFunction {}
// SAFETY: as above.
unsafe impl Sync for ImportedFunction {}

impl fmt::Debug for ImportedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedFunction")
            .field("metadata", &self.metadata())
            .finish_non_exhaustive()
    }
}

impl ImportedFunction {
    /// Calls the trace that was made for arguments of these dtypes and shapes (of these dtypes and
    /// ranks, if the function was exported shapeless).
    ///
    /// # Errors
    /// [`Error::Op`] if no trace fits; the message lists those there are. Also if an operation of a
    /// shapeless trace does not fit these shapes, or cannot be known to.
    pub fn call(&self, args: &[Array]) -> Result<Vec<Array>> {
        self.call_with(args, &BTreeMap::new())
    }

    /// [`call`](ImportedFunction::call) with arguments that have names, as functions exported by
    /// [`ExportOptions`](crate::ExportOptions) or by Python may want them.
    ///
    /// # Errors
    /// As [`call`](ImportedFunction::call).
    pub fn call_with(
        &self,
        args: &[Array],
        keywords: &BTreeMap<String, Array>,
    ) -> Result<Vec<Array>> {
        let keywords = Keywords::new(keywords)?;
        let names = keywords.pointers();
        let mut out = ArrayList::new();
        run("import_function", args, |error| {
            // SAFETY: a live handle; arrays and NUL-terminated names with their true counts.
            unsafe {
                mlx_sys::imported_call(
                    out.as_mut_ptr(),
                    self.raw,
                    args.as_ptr().cast(),
                    args.len(),
                    names.as_ptr(),
                    keywords.arrays.as_ptr().cast(),
                    names.len(),
                    error,
                )
            }
        })?;
        Ok(out.into_vec())
    }

    /// The text that was stored with the function.
    pub fn metadata(&self) -> String {
        let mut length = 0;
        // SAFETY: a live handle, whose text never changes and lives as long as it.
        let bytes = unsafe {
            let data = mlx_sys::imported_metadata(self.raw, &raw mut length);
            if length == 0 {
                return String::new();
            }
            std::slice::from_raw_parts(data.cast::<u8>(), length)
        };
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl Drop for ImportedFunction {
    fn drop(&mut self) {
        let _guard = ffi::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::imported_free(self.raw) };
    }
}

/// Reads a function that [`export_function`](crate::export_function), or MLX in another language,
/// wrote. Its constants are read when the function is first evaluated, so the file must stay.
///
/// # Safety
/// The file must be one that MLX wrote, whole and unchanged until the function is dropped. MLX
/// rebuilds whatever operations the file names with whatever parameters it gives, without checking
/// that they fit: a crafted or damaged file may make a later evaluation read foreign memory.
///
/// The same holds for values: this library's own functions limit their indices before they are
/// exported, those of Python do not. A function of Python may be called only with values that its
/// indexing operations can bear.
///
/// # Errors
/// [`Error::Op`] if the file cannot be read or is not of this format, or if it was exported
/// shapeless and an operation in it serves no shape but its own; [`Error::Unsupported`] for a path
/// that is not UTF-8.
pub unsafe fn import_function(path: impl AsRef<Path>) -> Result<ImportedFunction> {
    let path = path_text(path.as_ref())?;
    let mut raw = mlx_sys::imported { ctx: null_mut() };
    run("import_function", &[], |error| {
        // SAFETY: a NUL-terminated path; the caller vouches for the file.
        unsafe { mlx_sys::import_function(&raw mut raw, path.as_ptr(), error) }
    })?;
    Ok(ImportedFunction { raw })
}
