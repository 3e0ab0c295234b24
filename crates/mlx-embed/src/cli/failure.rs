//! Failures as people see them: one line, a hint, and an exit code.

use std::error::Error as _;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use mlx_embed::Error;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library failed.
    Library(Error),
    /// The default model could not be fetched.
    Fetch(mlx_sys::vendor::Error),
    /// The arguments make no sense together.
    Usage { message: String, hint: &'static str },
    /// A file named on the command line failed.
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Standard input or output failed.
    Stream {
        what: &'static str,
        source: io::Error,
    },
    /// Ctrl-C.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Interrupted,
            error => Self::Library(error),
        }
    }
}

impl From<mlx_core::Error> for Failure {
    fn from(error: mlx_core::Error) -> Self {
        Self::Library(error.into())
    }
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Usage {
            message: message.into(),
            hint,
        }
    }

    pub(crate) fn stdout(source: io::Error) -> Self {
        Self::Stream {
            what: "write to standard output",
            source,
        }
    }

    /// Writes the failure to standard error and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // Whoever read our output has seen enough.
            Self::Stream { source, .. } if source.kind() == ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Interrupted => return ExitCode::from(130),
            _ => {}
        }
        let mut text = format!("error: {}\n", one_line(&self.message()));
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {}\n", one_line(&hint)));
        }
        // Nobody is left to tell if standard error is gone too.
        let _ = io::stderr().write_all(text.as_bytes());
        self.code()
    }

    fn code(&self) -> ExitCode {
        match self {
            Self::Usage { .. }
            | Self::Library(Error::Option { .. } | Error::UnknownPrompt { .. }) => {
                ExitCode::from(2)
            }
            _ => ExitCode::FAILURE,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Library(error) => {
                let mut text = error.to_string();
                let mut cause = error.source();
                while let Some(error) = cause {
                    text.push_str(": ");
                    text.push_str(&error.to_string());
                    cause = error.source();
                }
                text
            }
            Self::Fetch(error) => format!("fetch the default model: {}", error.one_line()),
            Self::Usage { message, .. } => message.clone(),
            Self::File { what, path, source } => format!("{what} {}: {source}", path.display()),
            Self::Stream { what, source } => format!("{what}: {source}"),
            Self::Interrupted => "interrupted".to_owned(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Library(error) => error.hint(),
            Self::Fetch(_) => Some("name a model of your own with --model".to_owned()),
            Self::Usage { hint, .. } => Some((*hint).to_owned()),
            _ => None,
        }
    }
}

/// Control characters would let a file name or an upstream text break the line.
fn one_line(text: &str) -> String {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}
