//! Failures as people see them: one line, a hint, and an exit code.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::Error;
use crate::tokenizer::TextError;

/// Why a program ended early.
///
/// Exit codes: 1 for a failure, 2 for wrong usage, 130 for an answer that Ctrl-C cut short, and 0
/// if whoever read the output has seen enough.
#[derive(Debug)]
#[must_use]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    /// The reader of our output is gone.
    Unread,
    /// Ctrl-C, after some of the answer was out already, which then just ends.
    CutShort,
}

impl Failure {
    /// Something went wrong.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The arguments make no sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            ..Self::new(message, hint)
        }
    }

    /// An error with its causes, and what to do about it.
    pub fn from_error(error: &dyn std::error::Error, hint: impl Into<String>) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::new(message, hint)
    }

    /// The same failure, of a file that the message does not name.
    pub fn about(self, path: &Path) -> Self {
        Self {
            message: format!("{}: {}", path.display(), self.message),
            ..self
        }
    }

    /// The same failure, blamed on the arguments.
    pub fn into_usage(self) -> Self {
        Self {
            kind: Kind::Usage,
            ..self
        }
    }

    /// Standard output failed.
    pub fn stdout(source: &io::Error) -> Self {
        Self {
            kind: match source.kind() {
                ErrorKind::BrokenPipe => Kind::Unread,
                _ => Kind::Failed,
            },
            ..Self::new(
                format!("write to standard output: {source}"),
                "check where the output is directed",
            )
        }
    }

    /// A file that was named on the command line failed.
    pub fn file(what: &str, path: &Path, source: &io::Error) -> Self {
        Self::new(
            format!("{what} {}: {source}", path.display()),
            "check the path and who may use it",
        )
    }

    /// A default model could not be fetched.
    pub fn fetch(error: &mlx_sys::vendor::Error) -> Self {
        Self::new(
            format!("fetch the default model: {}", error.one_line()),
            "name a model of your own with --model",
        )
    }

    /// Ctrl-C before anything was said.
    pub fn interrupted() -> Self {
        Self::new("interrupted", "run it again; nothing was left behind")
    }

    /// Ctrl-C in the middle of an answer.
    pub fn cut_short() -> Self {
        Self {
            kind: Kind::CutShort,
            ..Self::interrupted()
        }
    }

    /// Writes the failure to standard error and returns the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self.kind {
            Kind::Unread => return ExitCode::SUCCESS,
            Kind::CutShort => return ExitCode::from(130),
            Kind::Failed | Kind::Usage => {}
        }
        // Nobody is left to tell if standard error is gone too.
        let _ = io::stderr().write_all(self.text().as_bytes());
        match self.kind {
            Kind::Usage => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// The two lines that [`report`](Self::report) writes: the error, and what to do about it, if
    /// that is known.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", one_line(&self.message));
        if !self.hint.is_empty() {
            text.push_str(&format!("hint: {}\n", one_line(&self.hint)));
        }
        text
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::Cancelled => return Self::interrupted(),
            #[cfg(feature = "hub")]
            Error::Hub(crate::hub::HubError::Cancelled) => {
                return Self::new("interrupted", error.hint());
            }
            Error::Text(TextError::Template { .. } | TextError::Refused { .. }) => {
                "bypass the template with --ignore-chat-template".to_owned()
            }
            error if needs_memory(error) => {
                format!("{}; or load it all the same with --force", error.hint())
            }
            error => error.hint(),
        };
        let failure = Self::from_error(&error, hint);
        match is_usage(&error) {
            true => failure.into_usage(),
            false => failure,
        }
    }
}

/// Whether it was refused before it was loaded.
fn needs_memory(error: &Error) -> bool {
    match error {
        Error::Load { source, .. } => needs_memory(source),
        Error::Memory { .. } => true,
        _ => false,
    }
}

/// Whether the arguments are to blame.
fn is_usage(error: &Error) -> bool {
    match error {
        Error::Load { source, .. } => is_usage(source),
        Error::Option { .. } | Error::EmptyPrompt | Error::Grammar { .. } => true,
        _ => false,
    }
}

impl From<mlx_core::Error> for Failure {
    fn from(error: mlx_core::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Error::from(error).into()
    }
}

#[cfg(feature = "hub")]
impl From<crate::hub::HubError> for Failure {
    fn from(error: crate::hub::HubError) -> Self {
        Error::from(error).into()
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
