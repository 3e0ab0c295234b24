//! Failures as people see them: one line, a hint, and an exit code.

use std::error::Error as _;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use mlx_lm::Error;
use mlx_lm::tokenizer::TextError;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library failed.
    Library(Error),
    /// The default model could not be fetched.
    Fetch(mlx_sys::vendor::Error),
    /// The arguments make no sense together.
    Usage { message: String, hint: &'static str },
    /// Standard input or output failed.
    Stream {
        what: &'static str,
        source: io::Error,
    },
    /// Ctrl-C.
    Interrupted {
        /// Whether some of the answer was out already, which then just ends.
        answering: bool,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Interrupted { answering: false },
            error => Self::Library(error),
        }
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
            Self::Interrupted { answering: true } => return ExitCode::from(130),
            _ => {}
        }
        let mut text = format!("error: {}\n", one_line(&self.message()));
        text.push_str(&format!("hint: {}\n", one_line(&self.hint())));
        // Nobody is left to tell if standard error is gone too.
        let _ = io::stderr().write_all(text.as_bytes());
        self.code()
    }

    fn code(&self) -> ExitCode {
        match self {
            Self::Usage { .. } | Self::Library(Error::Option { .. } | Error::EmptyPrompt) => {
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
            Self::Stream { what, source } => format!("{what}: {source}"),
            Self::Interrupted { .. } => "interrupted".to_owned(),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Library(Error::Text(TextError::Template { .. } | TextError::Refused { .. })) => {
                "bypass the template with --ignore-chat-template".to_owned()
            }
            Self::Library(error) => error.hint(),
            Self::Fetch(_) => "name a model of your own with --model".to_owned(),
            Self::Usage { hint, .. } => (*hint).to_owned(),
            Self::Stream { .. } => "check where input and output are directed".to_owned(),
            Self::Interrupted { .. } => "run it again; nothing was left behind".to_owned(),
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
