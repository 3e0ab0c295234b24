//! What can go wrong between us and the Hub.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// There is no such repository, or it is private.
    #[error("the Hub has no model `{repository}`")]
    NoRepository {
        /// `org/name`.
        repository: String,
    },
    /// There is no such branch, tag or commit.
    #[error("`{repository}` has no revision `{revision}`")]
    NoRevision {
        /// `org/name`.
        repository: String,
        /// What was asked for.
        revision: String,
    },
    /// There is no such file.
    #[error("`{repository}` has no file `{file}`")]
    NoFile {
        /// `org/name`.
        repository: String,
        /// What was asked for.
        file: String,
        /// GGUF files that exist.
        available: Vec<String>,
    },
    /// The repository has nothing that could be loaded.
    #[error("`{repository}` holds no safetensors weights")]
    NoWeights {
        /// `org/name`.
        repository: String,
        /// GGUF files that exist.
        available: Vec<String>,
    },
    /// The token is missing, wrong or expired.
    #[error("the Hub refuses access to `{repository}` (401)")]
    Unauthorized {
        /// `org/name`.
        repository: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The makers want to be asked first.
    #[error("access to `{repository}` is restricted (403)")]
    Gated {
        /// `org/name`.
        repository: String,
    },
    /// Too many requests.
    #[error("the Hub asks to wait (429)")]
    RateLimited {
        /// How long, where it says so.
        retry_after: Option<Duration>,
    },
    /// Some other answer.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// Nobody answered, or the connection broke too often.
    #[error("reach {host}: {reason}")]
    Network {
        /// The server.
        host: String,
        /// What happened.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("{url}: {message}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// A file is longer or shorter than announced.
    #[error("`{file}` has {found} bytes, expected {expected}")]
    Size {
        /// The file.
        file: String,
        /// As announced.
        expected: u64,
        /// As received.
        found: u64,
    },
    /// A file's digest is not the one announced.
    #[error("`{file}` arrived damaged: its sha256 is {found}, expected {expected}")]
    Digest {
        /// The file.
        file: String,
        /// As announced.
        expected: String,
        /// As received.
        found: String,
    },
    /// The model is not in the cache, and the network may not be used.
    #[error("`{id}` is not in the cache, and HF_HUB_OFFLINE forbids fetching")]
    Offline {
        /// What was asked for.
        id: String,
    },
    /// No cache folder is known.
    #[error("no folder for the Hub's cache is known")]
    NoCache,
    /// The cache could not be written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's complaint.
        #[source]
        source: io::Error,
    },
    /// The cancellation flag was raised.
    #[error("cancelled")]
    Cancelled,
}

impl HubError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// What to do about it, as one clause for a terminal.
    #[must_use]
    pub fn hint(&self) -> String {
        let fixed = match self {
            Self::NoFile { available, .. } | Self::NoWeights { available, .. }
                if !available.is_empty() =>
            {
                return format!("it has {}", first(available));
            }
            Self::NoRepository { .. } => {
                "check the spelling; for a private model put a token into HF_TOKEN; a local folder must exist"
            }
            Self::NoRevision { .. } => "name a branch, a tag or a commit of the repository",
            Self::NoFile { .. } => "look at the repository's list of files",
            Self::NoWeights { .. } => "look for a conversion of this model to safetensors or GGUF",
            Self::Unauthorized { token: true, .. } => {
                "the token is wrong or expired; put a new one into HF_TOKEN"
            }
            Self::Unauthorized { token: false, .. } => {
                "put a token into HF_TOKEN, or log in with the Hub's own tool"
            }
            Self::Gated { .. } => {
                "ask for access on the model's page, then put your token into HF_TOKEN"
            }
            Self::RateLimited {
                retry_after: Some(wait),
            } => return format!("try again in {} seconds", wait.as_secs()),
            Self::RateLimited { .. } => "try again in some minutes; a token raises the limit",
            Self::Status { status: 500.., .. } => "the server has a problem; try again later",
            Self::Status { .. } | Self::Answer { .. } => "check HF_ENDPOINT",
            Self::Network { .. } => {
                "check the network; what has arrived is kept, so run it again to go on"
            }
            Self::Size { .. } | Self::Digest { .. } => "run it again; the damaged file was removed",
            Self::Offline { .. } => "unset HF_HUB_OFFLINE, or fetch it on a machine with a network",
            Self::NoCache => "set HF_HOME",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space, or move the cache with HF_HOME; what has arrived is kept"
            }
            Self::Io { .. } => "check that the folder may be written, or move it with HF_HOME",
            Self::Cancelled => "run it again to go on; what has arrived is kept",
        };
        fixed.to_owned()
    }
}

/// The first few names of a list.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
