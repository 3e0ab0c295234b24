use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{Cache, Error, Pins, Progress, Result, Target};

/// Which build of MLX.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// Linux, no accelerator.
    Cpu,
    /// NVIDIA, CUDA 13.
    Cuda13,
    /// NVIDIA, CUDA 12.
    Cuda12,
    /// Apple silicon.
    Metal,
}

/// A usable MLX: where its headers and its library lie.
#[derive(Clone, Debug)]
pub struct Mlx {
    /// The folder with `include` and the library.
    pub root: PathBuf,
    /// Holds `mlx/mlx.h`.
    pub include: PathBuf,
    /// The shared library itself, as an absolute path.
    pub library: PathBuf,
    /// `major.minor.patch`, from its headers.
    pub version: String,
    /// Whether it came from `MLX_DIR`.
    pub installed: bool,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cuda13, Self::Cuda12, Self::Metal];

    /// Metal on macOS, otherwise the CPU.
    #[must_use]
    pub fn default_for(target: &Target) -> Self {
        if target.os == "macos" {
            Self::Metal
        } else {
            Self::Cpu
        }
    }

    /// Whether it needs NVIDIA's libraries at run time.
    #[must_use]
    pub fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda13 | Self::Cuda12)
    }

    /// The package that carries it.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Cpu => "mlx-cpu",
            Self::Cuda13 => "mlx-cuda-13",
            Self::Cuda12 => "mlx-cuda-12",
            Self::Metal => "mlx-metal",
        }
    }

    /// The platform to fetch it for, seen from `host`: Metal exists only for Apple silicon.
    #[must_use]
    pub fn target(self, host: &Target) -> Target {
        match self {
            Self::Metal => Target::new("macos", "aarch64"),
            _ if host.os == "linux" => host.clone(),
            _ => Target::new("linux", "x86_64"),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.package().trim_start_matches("mlx-"))
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|b| b.to_string() == text);
        found.ok_or_else(|| format!("unknown backend `{text}` (cpu, cuda-13, cuda-12, metal)"))
    }
}

impl Mlx {
    /// The MLX to build against: `MLX_DIR` if set, else the pinned package, fetched if needed.
    ///
    /// # Errors
    /// Any [`Error`]; a folder in `MLX_DIR` that does not serve is never silently passed over.
    pub fn locate(
        backend: Backend,
        target: &Target,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let pins = Pins::builtin()?;
        match std::env::var_os("MLX_DIR").filter(|v| !v.is_empty()) {
            Some(dir) => Self::installed(Path::new(&dir), target, &pins.mlx),
            None => Self::packaged(&Cache::user()?, &pins, backend, target, progress),
        }
    }

    /// The pinned package from a given cache, fetched if needed.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn packaged(
        cache: &Cache,
        pins: &Pins,
        backend: Backend,
        target: &Target,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let package = pins.package(backend.package())?;
        let folder = cache.fetch(package, target, progress)?;
        let root = folder.join("mlx");
        Self::inspect(&root, target)
            .map(|(include, library, version)| Self {
                root: root.clone(),
                include,
                library,
                version,
                installed: false,
            })
            .map_err(|reason| Error::Archive {
                file: package.label(),
                reason,
            })
    }

    /// An MLX that somebody installed: headers and a shared library no older than `wanted`.
    ///
    /// # Errors
    /// [`Error::Install`] says what is missing or too old.
    pub fn installed(root: &Path, target: &Target, wanted: &str) -> Result<Self> {
        let failed = |reason: String| Error::Install {
            path: root.to_owned(),
            reason,
        };
        // Links stay as they are: a stable name such as Homebrew's `opt/mlx` outlives upgrades.
        let absolute = std::path::absolute(root)
            .and_then(|path| fs::read_dir(&path).map(|_| path))
            .map_err(|e| failed(format!("the folder cannot be opened: {e}")))?;
        let (include, library, version) = Self::inspect(&absolute, target).map_err(failed)?;
        let parse = |text: &str| {
            text.split('.')
                .map(|part| part.parse::<u32>().unwrap_or(0))
                .collect::<Vec<_>>()
        };
        if parse(&version) < parse(wanted) {
            return Err(failed(format!(
                "it holds MLX {version}, but {wanted} or newer is needed"
            )));
        }
        Ok(Self {
            root: absolute,
            include,
            library,
            version,
            installed: true,
        })
    }

    /// Finds headers, library and version below a folder, or says what is missing.
    fn inspect(root: &Path, target: &Target) -> Result<(PathBuf, PathBuf, String), String> {
        let include = root.join("include");
        let header = include.join("mlx/version.h");
        let text = fs::read_to_string(&header)
            .map_err(|e| format!("cannot read {}: {e}", header.display()))?;
        let part = |name: &str| {
            let rest = text.split_once(&format!("#define MLX_VERSION_{name} "))?.1;
            rest.split_whitespace().next()?.parse::<u32>().ok()
        };
        let (Some(major), Some(minor), Some(patch)) = (part("MAJOR"), part("MINOR"), part("PATCH"))
        else {
            return Err(format!("{} does not define the version", header.display()));
        };
        let name = if target.os == "macos" {
            "libmlx.dylib"
        } else {
            "libmlx.so"
        };
        let folders =
            ["lib", "lib64", &format!("lib/{}-linux-gnu", target.arch)].map(|f| root.join(f));
        let library = folders
            .iter()
            .map(|f| f.join(name))
            .find(|p| p.is_file())
            .ok_or_else(|| {
                let fixed = folders.iter().any(|f| f.join("libmlx.a").is_file());
                let note = if fixed {
                    "; there is only a static libmlx.a: build MLX with -DBUILD_SHARED_LIBS=ON"
                } else {
                    ""
                };
                format!("there is no {name} in lib or lib64{note}")
            })?;
        Ok((include, library, format!("{major}.{minor}.{patch}")))
    }
}
