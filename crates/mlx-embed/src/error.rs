//! What can go wrong between a model folder and its vectors.

use std::path::PathBuf;

/// The result of a fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What fails when a folder's tokenizer does.
pub(crate) const READ_TOKENIZER: &str = "read `tokenizer.json`";

/// Why loading an embedding model or encoding a text failed.
///
/// A message is one clause and never repeats its cause: walk
/// [`source`](std::error::Error::source) for the whole chain, and ask
/// [`hint`](Error::hint) for what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model could not be loaded; the source says why.
    #[error("load {}", path.display())]
    Load {
        /// The folder that was asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// Neither a folder nor a model in the local Hub cache.
    #[error("no model folder at `{model}`")]
    ModelNotFound {
        /// What was asked for.
        model: String,
    },
    /// A model folder lacks a file that loading needs.
    #[error("`{file}` is missing")]
    MissingFile {
        /// Its path inside the folder.
        file: String,
    },
    /// No architecture is registered under the checkpoint's `model_type`.
    #[error("unsupported model_type `{model_type}`")]
    UnsupportedModel {
        /// The value found in the configuration.
        model_type: String,
        /// The registered types, sorted.
        supported: Vec<String>,
    },
    /// `modules.json` asks for a processing step that this crate does not have.
    #[error("unsupported module `{module}`")]
    UnsupportedModule {
        /// The class that `modules.json` names.
        module: String,
        /// The classes that are supported.
        supported: &'static [&'static str],
    },
    /// A configuration field is missing, malformed or has an unsupported value.
    #[error("`{file}`: {message}")]
    Config {
        /// The file, by its path inside the folder.
        file: String,
        /// The field, and what is wrong with it.
        message: String,
    },
    /// A JSON file does not parse.
    #[error("parse {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's complaint, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A file could not be read.
    #[error("read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's complaint.
        #[source]
        source: std::io::Error,
    },
    /// The stored weights do not fit what the configuration describes.
    #[error("weights in `{file}`")]
    Weights {
        /// The file, by its path inside the folder.
        file: String,
        /// Every difference.
        #[source]
        source: mlx_nn::Error,
    },
    /// The tokenizer is malformed or refused a text.
    #[error("{action}")]
    Tokenizer {
        /// What was tried: reading `tokenizer.json`, or tokenising a text.
        action: &'static str,
        /// The tokenizer's complaint.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has no prompt of this name.
    #[error("the model has no prompt `{name}`")]
    UnknownPrompt {
        /// What was asked for.
        name: String,
        /// The names it has, sorted.
        known: Vec<String>,
    },
    /// An option lies outside its range.
    #[error("option `{option}`: {message}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its range and the value given.
        message: String,
    },
    /// The cancellation flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// Running a layer failed.
    #[error(transparent)]
    Nn(#[from] mlx_nn::Error),
    /// An array operation failed.
    #[error(transparent)]
    Core(#[from] mlx_core::Error),
}

impl Error {
    /// What the caller can do about it, as one clause for a terminal.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Load { source, .. } => source.hint(),
            Self::ModelNotFound { .. } => Some(
                "give a sentence-transformers or BERT folder, or the id of a model in the local Hugging Face cache"
                    .to_owned(),
            ),
            Self::MissingFile { .. } => Some(
                "a model folder holds config.json, tokenizer.json and model.safetensors; fetch it again"
                    .to_owned(),
            ),
            Self::UnsupportedModel { supported, .. } => {
                Some(format!("supported are {}", supported.join(", ")))
            }
            Self::UnsupportedModule { supported, .. } => {
                Some(format!("supported are {}", supported.join(", ")))
            }
            Self::Tokenizer {
                action: READ_TOKENIZER,
                ..
            } => Some("the file is damaged or of an unknown kind; fetch it again".to_owned()),
            Self::Json { .. } => Some("the file is damaged or not JSON; fetch it again".to_owned()),
            Self::UnknownPrompt { known, .. } if known.is_empty() => {
                Some("it has none; give the text itself as prompt".to_owned())
            }
            Self::UnknownPrompt { known, .. } => Some(format!("it has {}", known.join(", "))),
            Self::Config { file, .. } => Some(format!("check {file} against the original")),
            Self::Io { .. } => Some("check that the file exists and may be read".to_owned()),
            Self::Weights { file, .. } => {
                Some(format!("{file} is damaged or not of this model; fetch it again"))
            }
            Self::Tokenizer { .. } => {
                Some("check the text, or fetch the model's tokenizer.json again".to_owned())
            }
            Self::Option { .. } => Some("choose a value within its range".to_owned()),
            Self::Cancelled | Self::Nn(_) | Self::Core(_) => None,
        }
    }

    pub(crate) fn config(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config {
            file: file.into(),
            message: message.into(),
        }
    }
}

#[cfg(feature = "cli")]
impl From<Error> for mlx_lm::cli::Failure {
    fn from(error: Error) -> Self {
        if let Error::Cancelled = error {
            return Self::cut_short();
        }
        let hint = error.hint().unwrap_or_default();
        let failure = Self::from_error(&error, hint);
        match error {
            Error::Option { .. } | Error::UnknownPrompt { .. } => failure.into_usage(),
            _ => failure,
        }
    }
}
