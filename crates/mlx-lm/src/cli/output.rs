//! Standard streams, log lines, and files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::failure::Failure;

/// Sends library events to standard error: errors if `quiet`, else warnings too, or what
/// `RUST_LOG` says.
pub fn log(quiet: bool) {
    let level = match quiet {
        true => LevelFilter::ERROR,
        false => LevelFilter::WARN,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .without_time()
        .with_target(false)
        .try_init();
    if let Err(error) = installed {
        tracing::debug!(%error, "events go where they went before");
    }
}

/// Writes text to standard output at once.
///
/// # Errors
/// If it cannot be written; a reader that is gone is a failure with exit code 0.
pub fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::stdout(&error))
}

/// Writes to standard error what is not the answer; that nobody reads it is no failure.
pub fn note(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// All of standard input as text; `what` names it in errors.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub fn read_stdin(what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = stdin().lock().read_to_end(&mut bytes);
    read.map_err(|source| {
        Failure::new(
            format!("read {what} from standard input: {source}"),
            "check where the input comes from",
        )
    })?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            format!("{what} on standard input is not UTF-8"),
            "convert it, for example with iconv",
        )
    })
}

/// A file that gets its name once it is complete, and is removed if it never is.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    done: bool,
}

impl NewFile {
    /// Checks that the file can be made, and makes it under a temporary name.
    ///
    /// # Errors
    /// If its folder is missing or cannot be written, or if `path` is a folder.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path
            .file_name()
            .filter(|_| !path.is_dir() && folder.is_dir());
        let Some(name) = name else {
            return Err(Failure::usage(
                format!("{} cannot be written", path.display()),
                "name a file in a folder that exists",
            ));
        };
        // The extension stays: writers go by it.
        let temporary = folder.join(format!(
            ".{}-{}",
            std::process::id(),
            name.to_string_lossy()
        ));
        File::create(&temporary).map_err(|source| Failure::file("write", path, &source))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            done: false,
        })
    }

    /// Where to write meanwhile.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn finish(mut self) -> Result<(), Failure> {
        fs::rename(&self.temporary, &self.path)
            .map_err(|source| Failure::file("write", &self.path, &source))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
