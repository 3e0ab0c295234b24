use std::{io, path::PathBuf};

/// Result of a vendoring step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be fetched, unpacked or found. Each message is one line that says
/// what failed, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no home folder to put a cache in.
    #[error("no cache folder: set MLX_CACHE_DIR to a writable folder (HOME is not set)")]
    NoCacheDir,

    /// A file or folder of the cache cannot be read or written.
    #[error("cannot {action} {} (set MLX_CACHE_DIR to a writable folder to move the cache)", path.display())]
    Cache {
        /// What was tried: `create`, `write`, `lock`, …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The disk, quota or file-size limit was reached; nothing partial is left behind.
    #[error("disk full while writing {} (free some space, or set MLX_CACHE_DIR to a folder on a larger disk)", path.display())]
    DiskFull {
        /// The file that did not fit, or the folder that a download went to.
        path: PathBuf,
    },

    /// A fetch is needed but `MLX_SYS_OFFLINE` forbids it.
    #[error(
        "{package} is not in the cache at {} and MLX_SYS_OFFLINE forbids fetching it \
         (unset MLX_SYS_OFFLINE, fetch it once with `cargo xtask vendor` or `cargo xtask models fetch`{})",
        folder.display(), if *.mlx { ", or set MLX_DIR to an installed MLX" } else { "" }
    )]
    Offline {
        /// Name and version.
        package: String,
        /// Where it would have been.
        folder: PathBuf,
        /// Whether an installed MLX could serve instead.
        mlx: bool,
    },

    /// No working pip was found.
    #[error(
        "python3 with pip is needed to fetch {package}, but none of `python3 -m pip`, `pip3`, `pip` runs \
         (install both, for example with `apt install python3-pip`{})",
        if *.mlx { ", or set MLX_DIR to an installed MLX" } else { "" }
    )]
    NoPip {
        /// Name and version.
        package: String,
        /// Whether an installed MLX could serve instead.
        mlx: bool,
    },

    /// The package index could not be reached.
    #[error(
        "no network: pip could not reach its package index for {package}: {reason} \
         (check the connection, proxy and `pip config list`)"
    )]
    Network {
        /// Name and version.
        package: String,
        /// Pip's own words.
        reason: String,
    },

    /// Pip ran and failed for another reason.
    #[error("pip could not download {package}: {reason} (try `{command}`)")]
    Pip {
        /// Name and version.
        package: String,
        /// Pip's own words.
        reason: String,
        /// The command, to be repeated by hand.
        command: String,
    },

    /// The downloaded file is not the pinned one.
    #[error(
        "wrong digest for {file}: the lock file pins sha256 {expected}, the download has {found} \
         (the file was discarded; check which package index pip uses with `pip config list`)"
    )]
    Digest {
        /// File name.
        file: String,
        /// Digest in `mlx.lock.toml`.
        expected: String,
        /// Digest of what arrived.
        found: String,
    },

    /// The archive is damaged, lies about itself or would write outside its folder.
    #[error("cannot unpack {file}: {reason}")]
    Archive {
        /// File name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The lock file holds no such package, or none for this platform.
    #[error("no pinned package {package} for {target} (the lock file has: {known})")]
    NotPinned {
        /// Name asked for.
        package: String,
        /// Platform, such as `linux-x86_64`.
        target: String,
        /// What there is instead.
        known: String,
    },

    /// There is no model of that name.
    #[error("unknown model `{name}` (known: {known})")]
    UnknownModel {
        /// Name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },

    /// The lock file itself is unreadable.
    #[error("mlx.lock.toml is invalid: {0}")]
    Pins(String),

    /// An installed MLX lacks something.
    #[error(
        "MLX_DIR={}: {reason} (point it at the folder that holds include/mlx and the shared library, \
         or unset it to use the packaged MLX)", path.display()
    )]
    Install {
        /// The folder that `MLX_DIR` names.
        path: PathBuf,
        /// What is missing or unsuitable.
        reason: String,
    },

    /// A build tool is missing or does not run.
    #[error("{tool} does not run: {reason}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What happened.
        reason: String,
    },
}

impl Error {
    /// Turns an I/O failure in the cache into the variant a user can act on.
    pub(super) fn cache(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { path },
            _ => Self::Cache {
                action,
                path,
                source,
            },
        }
    }

    /// The message and its causes on one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text.replace('\n', " ")
    }
}
