//! Errors of the text side: tokenizers, detokenisers and chat templates.

use std::path::PathBuf;

/// What can go wrong between text and tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file of the model folder could not be read.
    #[error("read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The model folder has no tokenizer that can be loaded.
    #[error("no tokenizer.json, tokenizer.model or tiktoken file in {}", folder.display())]
    MissingTokenizer {
        /// The model folder.
        folder: PathBuf,
    },
    /// A file, or the metadata of a GGUF file, does not say what it should.
    #[error("{what}: {message}")]
    Format {
        /// The file or the metadata key.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The tokenizer kind is known to exist but is not supported.
    #[error("unsupported {what} `{name}`")]
    Unsupported {
        /// The setting, for instance `tokenizer.ggml.pre`.
        what: &'static str,
        /// Its value.
        name: String,
    },
    /// The tokenizer refused an input.
    #[error("{operation}: {message}")]
    Tokenize {
        /// `encode`, `decode` or `save`.
        operation: &'static str,
        /// The tokenizer's own words.
        message: String,
    },
    /// No chat template, or none of the requested name.
    #[error("{}", missing_template(name.as_deref(), available))]
    MissingTemplate {
        /// The requested name, if one was given.
        name: Option<String>,
        /// The names that exist.
        available: Vec<String>,
    },
    /// A chat template does not compile, or failed while it was rendered.
    #[error("chat template{}: {message}", at_line(*line, source_line))]
    Template {
        /// Line of the template, counted from 1; 0 if unknown.
        line: usize,
        /// The text of that line.
        source_line: String,
        /// What is wrong.
        message: String,
    },
    /// The chat template itself rejected the conversation (`raise_exception`).
    #[error("chat template refused the conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The conversation cannot be rendered.
    #[error("invalid conversation: {0}")]
    Conversation(String),
}

/// Result of a text operation.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

impl TextError {
    pub(crate) fn format(what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Format {
            what: what.into(),
            message: message.to_string(),
        }
    }
}

fn missing_template(name: Option<&str>, available: &[String]) -> String {
    match (name, available) {
        (None, []) => "the model has no chat template".to_owned(),
        (None, names) => format!(
            "the model has several chat templates and no default; choose one of {}",
            names.join(", ")
        ),
        (Some(name), []) => format!("no chat template `{name}`: the model has none"),
        (Some(name), names) => {
            format!(
                "no chat template `{name}`; the model has {}",
                names.join(", ")
            )
        }
    }
}

fn at_line(line: usize, source: &str) -> String {
    match (line, source.trim()) {
        (0, _) => String::new(),
        (line, "") => format!(" line {line}"),
        (line, source) => format!(" line {line} (`{source}`)"),
    }
}
