//! The crate's error type.

use std::path::PathBuf;

use crate::Dtype;

/// The result of nearly every function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument that needs at least one element had none.
    #[error(transparent)]
    EmptyInput(EmptyInput),

    /// MLX reported a failure that belongs to no single operation, or the caller's own closure
    /// did through `Error::Backend("…".into())`.
    #[error("{0}")]
    Backend(String),

    /// MLX refused an operation. Names the operation and describes its operands.
    #[error("{op}({operands}): {message}")]
    Op {
        /// The operation's MLX name.
        op: &'static str,
        /// Dtypes and shapes of its array operands, for example `float32[2, 3], int32[4]`.
        operands: String,
        /// MLX's own explanation.
        message: String,
    },

    /// A value was asked for as another type than the array holds. Cast with
    /// [`astype`](crate::ops::misc::astype) first.
    #[error("expected an array of {expected}, found {found}")]
    DtypeMismatch {
        /// The dtype of the Rust type that was asked for.
        expected: Dtype,
        /// The array's dtype.
        found: Dtype,
    },

    /// A shape, an axis or a count does not fit.
    #[error("{op}: {message}")]
    Shape {
        /// The function that was called.
        op: &'static str,
        /// What does not fit.
        message: String,
    },

    /// An index lies outside the array.
    #[error("{op}: index {index} is out of bounds for axis {axis} with size {size}")]
    OutOfBounds {
        /// The function that was called.
        op: &'static str,
        /// The offending index, as given.
        index: i64,
        /// The axis it indexes.
        axis: usize,
        /// The size of that axis.
        size: i64,
    },

    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },

    /// A file's content is not what its format promises.
    #[error("{what}: {message}")]
    Format {
        /// The file and the part of it.
        what: String,
        /// What is wrong there.
        message: String,
    },

    /// A closure given to a transform panicked; the panic ended there.
    #[error("panic in a closure: {0}")]
    Panic(String),

    /// The memory for a result could not be had.
    #[error("out of memory: {0}")]
    OutOfMemory(String),

    /// This build or this machine cannot do what was asked.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape {
            op,
            message: message.into(),
        }
    }

    /// An [`Error::EmptyInput`] with this context.
    pub fn empty_input(context: impl Into<String>) -> Self {
        Error::EmptyInput(EmptyInput {
            context: context.into(),
        })
    }
}

/// The payload of [`Error::EmptyInput`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{context} must not be empty")]
pub struct EmptyInput {
    context: String,
}

impl EmptyInput {
    /// The function and the argument, for example ``value_and_grad: `argnums` ``.
    pub fn context(&self) -> &str {
        &self.context
    }
}
