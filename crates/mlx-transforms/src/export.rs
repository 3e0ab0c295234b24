//! Functions written to files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_core::{Array, Error, Result};

use crate::closure::{Closure, RawExporter};

pub use crate::closure::{ImportedFunction, import_function};

/// Arguments that have names.
pub type Keywords = BTreeMap<String, Array>;

/// How a function is exported.
#[derive(Clone, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct ExportOptions {
    shapeless: bool,
    metadata: String,
}

impl ExportOptions {
    /// Lets each trace serve all shapes of the same ranks; operations that need to know theirs
    /// refuse that.
    pub fn shapeless(mut self, shapeless: bool) -> Self {
        self.shapeless = shapeless;
        self
    }

    /// A text to store with the function; [`ImportedFunction::metadata`] gives it back.
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// Writes the graph that `f` records for `args` to a file, for this library, Python, Swift or C++
/// to call. Arrays that `f` captures become constants in the file.
///
/// See [`Exporter`] for several traces, arguments with names and other options.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::{export_function, import_function};
///
/// let path = std::env::temp_dir().join(format!("square-{}.mlxfn", std::process::id()));
/// export_function(&path, |xs| Ok(vec![xs[0].square()?]), &[array!([0.0, 0.0])?])?;
/// // SAFETY: the file was written just now.
/// let square = unsafe { import_function(&path)? };
/// assert_eq!(square.call(&[array!([3.0, 4.0])?])?[0].to_vec::<f32>()?, [9.0, 16.0]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// As [`Exporter::trace`] and [`Exporter::finish`].
pub fn export_function<F>(path: impl AsRef<Path>, f: F, args: &[Array]) -> Result<()>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let mut exporter = Exporter::new(path, move |args, _| f(args), &ExportOptions::default())?;
    exporter.trace(args)?;
    exporter.finish()
}

/// Writes several traces of a function to one file: one for each combination of dtypes, shapes and
/// names of arguments that the function shall be called with.
///
/// The file appears at its path, whole, when [`finish`](Exporter::finish) is called; an exporter
/// that is dropped before leaves nothing behind.
///
/// ```
/// # use mlx_core::array;
/// use mlx_transforms::{ExportOptions, Exporter, Keywords, import_function};
///
/// # let path = std::env::temp_dir().join(format!("scale-{}.mlxfn", std::process::id()));
/// let scale = |args: &[_], keywords: &Keywords| match keywords.get("by") {
///     Some(by) => Ok(vec![(&args[0] * by)?]),
///     None => Ok(vec![(&args[0] * 2.0)?]),
/// };
/// let mut exporter = Exporter::new(&path, scale, &ExportOptions::default().metadata("v1"))?;
/// let x = array!([1.0, 2.0])?;
/// let by = Keywords::from([("by".to_owned(), array!(10.0)?)]);
/// exporter.trace(&[x.clone()])?;
/// exporter.trace_with(&[x.clone()], &by)?;
/// exporter.finish()?;
///
/// // SAFETY: the file was written just now.
/// let scale = unsafe { import_function(&path)? };
/// assert_eq!(scale.metadata(), "v1");
/// assert_eq!(scale.call(&[x.clone()])?[0].to_vec::<f32>()?, [2.0, 4.0]);
/// assert_eq!(scale.call_with(&[x], &by)?[0].to_vec::<f32>()?, [10.0, 20.0]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Exporter {
    raw: Option<RawExporter>,
    path: PathBuf,
    partial: PathBuf,
    /// The names of the arguments of the trace being made.
    names: Rc<RefCell<Vec<String>>>,
    failed: bool,
}

impl Exporter {
    /// Starts a file. Nothing is traced yet.
    ///
    /// # Errors
    /// [`Error::Op`] if the file cannot be written; [`Error::Unsupported`] for a path that is not
    /// UTF-8.
    pub fn new<F>(path: impl AsRef<Path>, f: F, options: &ExportOptions) -> Result<Self>
    where
        F: Fn(&[Array], &Keywords) -> Result<Vec<Array>> + 'static,
    {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let path = path.as_ref().to_owned();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}-{number}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let names = Rc::new(RefCell::new(Vec::<String>::new()));
        let known = Rc::clone(&names);
        let closure = Closure::new(move |inputs: &[Array]| {
            let names = known.borrow().clone();
            let (args, named) = inputs.split_at(inputs.len().saturating_sub(names.len()));
            f(
                args,
                &names.into_iter().zip(named.iter().cloned()).collect(),
            )
        })?;
        let raw = RawExporter::new(&partial, &closure, options.shapeless, &options.metadata);
        if raw.is_err() {
            // MLX may have made the file before it failed.
            let _ = fs::remove_file(&partial);
        }
        Ok(Exporter {
            raw: Some(raw?),
            path,
            partial,
            names,
            failed: false,
        })
    }

    /// Calls the function with placeholders for `args`, twice, and writes what it records. The
    /// values of `args` do not matter.
    ///
    /// # Errors
    /// What the function returns; [`Error::Op`] if a trace for such arguments was made already, if
    /// an operation cannot be written (custom kernels and custom functions) or refuses `shapeless`,
    /// or if a captured array does not lie in row-major order. After an error the file is lost.
    pub fn trace(&mut self, args: &[Array]) -> Result<()> {
        self.trace_with(args, &Keywords::new())
    }

    /// [`trace`](Exporter::trace) with arguments that have names.
    ///
    /// # Errors
    /// As [`trace`](Exporter::trace).
    pub fn trace_with(&mut self, args: &[Array], keywords: &Keywords) -> Result<()> {
        let raw = match &self.raw {
            Some(raw) if !self.failed => raw,
            _ => return Err(lost(&self.path)),
        };
        *self.names.borrow_mut() = keywords.keys().cloned().collect();
        let result = raw.trace(args, keywords);
        // MLX has an entry for these arguments now, and no trace to go with it.
        self.failed = result.is_err();
        result
    }

    /// Puts the file in its place, over one that is there.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails; [`Error::Unsupported`] after a failed trace.
    pub fn finish(mut self) -> Result<()> {
        if self.failed {
            return Err(lost(&self.path));
        }
        // MLX closes the file with its exporter.
        drop(self.raw.take());
        fs::rename(&self.partial, &self.path).map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.raw.take());
        // Gone already if it was finished.
        let _ = fs::remove_file(&self.partial);
    }
}

fn lost(path: &Path) -> Error {
    Error::Unsupported(format!(
        "{}: a trace failed, so there is no whole file to write",
        path.display()
    ))
}
