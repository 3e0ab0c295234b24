//! What can go wrong in a layer or while weights are loaded.

use std::path::{Path, PathBuf};

use crate::module::load::LoadReport;

/// The result of a fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a layer could not be built, filled with weights or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array operation failed.
    #[error(transparent)]
    Core(#[from] mlx_core::Error),
    /// The weights and the module do not fit together; the report lists every difference.
    #[error("weights do not fit the model: {0}")]
    Load(Box<LoadReport>),
    /// A named weight is absent, or would overwrite another one.
    #[error("weight {key}: {message}")]
    Weight {
        /// The checkpoint key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A layer was run before its weights were loaded.
    #[error("{layer} of shape {shape:?} was run before its weights were loaded")]
    NotLoaded {
        /// The kind of layer.
        layer: &'static str,
        /// The shape its weight will have.
        shape: Vec<i32>,
    },
    /// A setting has a value that this crate does not know.
    #[error("unsupported {what} `{value}`")]
    Unsupported {
        /// What was being chosen, for example `activation`.
        what: &'static str,
        /// The value found.
        value: String,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was to be done with it.
        action: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A layer, loss or optimizer was given an argument outside its range.
    #[error("{layer}: {message}")]
    InvalidArgument {
        /// The layer or function.
        layer: &'static str,
        /// What is wrong, with the value given.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(layer: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidArgument {
            layer,
            message: message.into(),
        }
    }

    #[cfg_attr(
        not(feature = "train"),
        expect(dead_code, reason = "files are for trainers")
    )]
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
        source: std::io::Error,
    ) -> Self {
        Self::File {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    pub(crate) fn weight(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Weight {
            key: key.into(),
            message: message.into(),
        }
    }
}

/// Lets a forward pass be called, with `?`, inside the closures of `mlx_transforms`.
impl From<Error> for mlx_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            other => Self::Backend(other.to_string()),
        }
    }
}
