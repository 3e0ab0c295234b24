//! What can go wrong between a model path and its words.

use std::path::PathBuf;

use crate::tokenizer::TextError;

/// The result of a fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why loading a model, reading its text side or generating failed.
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
        /// The folder or file that was asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// Neither a folder, nor a file, nor a model in the local Hub cache.
    #[error("no model at `{model}`")]
    ModelNotFound {
        /// What was asked for.
        model: String,
    },
    /// A model folder lacks a file that loading needs.
    #[error("`{file}` is missing")]
    MissingFile {
        /// The name of the file, or of the files of which one is needed.
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
    /// A configuration field is missing, malformed or has an unsupported value.
    #[error("config field `{field}`: {message}")]
    Config {
        /// The key as spelt in the configuration.
        field: String,
        /// What is wrong with it.
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
    /// Stored weights contradict themselves or are of a kind that cannot be read.
    #[error("weights: {message}")]
    Weights {
        /// What was found.
        message: String,
    },
    /// The tokenizer or the chat template is absent, malformed or refused its input.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The prompt holds no token at all.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit into the model's context.
    #[error("the prompt has {tokens} tokens but the model's context holds {limit}")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// `max_position_embeddings` of the model.
        limit: usize,
    },
    /// An option lies outside its range.
    #[error("option `{option}`: {message}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its range and the value given.
        message: String,
    },
    /// The model could not be fetched.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A grammar is malformed, or cannot be followed with this tokenizer.
    #[error("grammar: {message}")]
    Grammar {
        /// What is wrong with it.
        message: String,
    },
    /// The model, its cache and its work do not fit into memory.
    #[error(
        "not enough memory: {} needed, {} available",
        crate::memory::human(*needed), crate::memory::human(*available)
    )]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The cancellation flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// Building a module or loading its weights failed.
    #[error(transparent)]
    Nn(#[from] mlx_nn::Error),
    /// An array operation failed.
    #[error(transparent)]
    Core(#[from] mlx_core::Error),
}

impl Error {
    /// What to do about it, as one clause for a terminal.
    #[must_use]
    pub fn hint(&self) -> String {
        let fixed = match self {
            Self::Load { source, .. } => return source.hint(),
            Self::UnsupportedModel { supported, .. } => {
                return format!("supported are {}", supported.join(", "));
            }
            Self::MissingFile { file } => {
                return format!(
                    "a model folder holds config.json, tokenizer.json and *.safetensors; fetch `{file}` again"
                );
            }
            Self::ModelNotFound { .. } => {
                "give a model folder, a .gguf file, or the id of a model in the local Hugging Face cache"
            }
            Self::Config { .. } => {
                "check the configuration against the original, or look for another conversion of this model"
            }
            Self::Json { .. } => "the file is damaged or not JSON; fetch it again",
            Self::Io { .. } => "check that the file exists and may be read",
            Self::Weights { .. } => {
                "the weights are damaged or of a kind that is not supported; fetch them again"
            }
            #[cfg(feature = "hub")]
            Self::Hub(error) => return error.hint(),
            Self::Text(error) => text_hint(error),
            Self::EmptyPrompt => "give some text, or use a chat template",
            Self::PromptTooLong { .. } => {
                "shorten the prompt, or limit what is remembered with max_kv_size"
            }
            Self::Option { .. } => "choose a value within its range",
            Self::Grammar { .. } => "check the schema, expression or grammar that was given",
            Self::Memory { .. } => {
                "use a smaller or a quantised model, limit max_kv_size, or close other programs"
            }
            Self::Cancelled => "run it again; nothing was left behind",
            Self::Nn(mlx_nn::Error::Core(error)) | Self::Core(error) => core_hint(error),
            Self::Nn(mlx_nn::Error::Load(_)) => {
                "weights and config.json are not of the same model; fetch both again"
            }
            Self::Nn(_) => "check config.json against the original",
        };
        fixed.to_owned()
    }

    pub(crate) fn config(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config {
            field: field.into(),
            message: message.into(),
        }
    }

    pub(crate) fn weights(message: impl Into<String>) -> Self {
        Self::Weights {
            message: message.into(),
        }
    }
}

fn text_hint(error: &TextError) -> &'static str {
    match error {
        TextError::MissingTokenizer { .. } => {
            "a model folder needs its tokenizer.json; fetch it again"
        }
        TextError::MissingTemplate { .. } => "use the prompt as it stands, or name a template",
        TextError::Template { .. } | TextError::Refused { .. } => {
            "use the prompt as it stands, without the chat template"
        }
        TextError::Unsupported { .. } => "look for another conversion of this model",
        TextError::Io { .. } => "check that the file exists and may be read",
        TextError::Format { .. } => "the file is damaged; fetch it again",
        TextError::Tokenize { .. } | TextError::Conversation(_) => "check the text that was given",
    }
}

fn core_hint(error: &mlx_core::Error) -> &'static str {
    match error {
        mlx_core::Error::Format { .. } => "the file is damaged or incomplete; fetch it again",
        mlx_core::Error::Io { .. } => "check that the file exists and may be read",
        mlx_core::Error::OutOfMemory(_) => {
            "use a smaller or a quantised model, or close other programs"
        }
        mlx_core::Error::Unsupported(_) => "look for another conversion of this model",
        _ => {
            "check the checkpoint against its original; if it is sound, this is a bug worth a report"
        }
    }
}
