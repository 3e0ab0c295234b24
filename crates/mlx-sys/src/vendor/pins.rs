use std::fmt;

use serde::Deserialize;

use super::{Error, Result};

const LOCK: &str = include_str!("../../mlx.lock.toml");

/// The lock file: every package that may be fetched.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The version of MLX that the shim is written for.
    pub mlx: String,
    /// All packages.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One package at one version, with a file per platform.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name in the index.
    pub name: String,
    /// Exact version.
    pub version: String,
    /// What it is for, which decides where it is kept.
    pub kind: Kind,
    /// Folder in the cache, where it differs from `name-version`.
    pub folder: Option<String>,
    /// Unpack only what lies under this prefix, without the prefix (licences are always kept).
    pub take: Option<String>,
    /// Of that, only files whose name ends so.
    pub keep: Option<String>,
    /// For [`Kind::Nvidia`]: the MLX package that needs it.
    #[serde(rename = "for")]
    pub needed_by: Option<String>,
    /// The files.
    #[serde(rename = "file")]
    pub files: Vec<File>,
}

/// What a package is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A build of MLX.
    Mlx,
    /// A program or library needed while building.
    Tool,
    /// Weights and tokenizer of a small real model.
    Model,
    /// NVIDIA's run-time libraries, unpacked into the MLX package that needs them.
    Nvidia,
}

/// One file of a package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `os-architecture`, or `any`.
    pub target: String,
    /// File name; its last part holds the platform tags that pip is asked for.
    pub name: String,
    /// Lower-case hexadecimal digest.
    pub sha256: String,
    /// Bytes, where known, for progress.
    pub size: Option<u64>,
}

/// A platform in the spelling of the lock file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// As in `CARGO_CFG_TARGET_OS`.
    pub os: String,
    /// As in `CARGO_CFG_TARGET_ARCH`.
    pub arch: String,
}

impl Target {
    /// The machine that this code runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH)
    }

    /// A platform by Rust's names for system and architecture.
    #[must_use]
    pub fn new(os: impl Into<String>, arch: impl Into<String>) -> Self {
        Self {
            os: os.into(),
            arch: arch.into(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.os, self.arch)
    }
}

impl Pins {
    /// The lock file that this crate was built with.
    ///
    /// # Errors
    /// [`Error::Pins`] if it does not parse.
    pub fn builtin() -> Result<Self> {
        Self::parse(LOCK)
    }

    /// Reads a lock file's text.
    ///
    /// # Errors
    /// [`Error::Pins`] if it does not parse.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::Pins(e.message().to_owned()))
    }

    /// Looks a package up by name.
    ///
    /// # Errors
    /// [`Error::NotPinned`] names the packages that exist.
    pub fn package(&self, name: &str) -> Result<&Package> {
        self.packages
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| Error::NotPinned {
                package: name.to_owned(),
                target: "any platform".to_owned(),
                known: list(self.packages.iter().map(|p| p.name.as_str())),
            })
    }
}

impl Package {
    /// The file for a platform; among several for macOS, the newest that the running system
    /// accepts (when the target is another system, the newest of all).
    ///
    /// # Errors
    /// [`Error::NotPinned`] names the platforms that exist.
    pub fn file(&self, target: &Target) -> Result<&File> {
        let name = target.to_string();
        let fitting = self
            .files
            .iter()
            .filter(|f| f.target == name || f.target == "any");
        let limit = if target.os == "macos" {
            running_macos()
        } else {
            None
        };
        fitting
            .filter(|f| limit.is_none_or(|limit| f.macos_version().is_none_or(|v| v <= limit)))
            .max_by_key(|f| f.macos_version())
            .ok_or_else(|| Error::NotPinned {
                package: self.label(),
                target: name,
                known: list(self.files.iter().map(|f| f.target.as_str())),
            })
    }

    /// Name and version as people read them.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The folder that it is unpacked into, relative to the cache.
    #[must_use]
    pub fn folder(&self) -> String {
        let root = match self.kind {
            Kind::Mlx => "dist",
            Kind::Tool => "tools",
            Kind::Model => "models",
            Kind::Nvidia => "nvidia",
        };
        match &self.folder {
            Some(folder) => format!("{root}/{folder}"),
            None => format!("{root}/{}-{}", self.name, self.version),
        }
    }
}

impl File {
    /// The platform tags at the end of the file name; empty for `any`.
    #[must_use]
    pub fn platform_tags(&self) -> Vec<&str> {
        let stem = self.name.strip_suffix(".whl").unwrap_or(&self.name);
        let tags = stem.rsplit('-').next().unwrap_or_default();
        tags.split('.').filter(|tag| *tag != "any").collect()
    }

    fn macos_version(&self) -> Option<u32> {
        let tag = self.platform_tags().into_iter().next()?;
        tag.strip_prefix("macosx_")?.split('_').next()?.parse().ok()
    }
}

/// Major version of the running macOS; none elsewhere.
fn running_macos() -> Option<u32> {
    if std::env::consts::OS != "macos" {
        return None;
    }
    let output = std::process::Command::new("sw_vers")
        .arg("-productVersion")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().split('.').next()?.parse().ok()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
