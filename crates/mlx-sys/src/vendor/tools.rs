use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Cache, Error, Pins, Progress, Result, Target};

/// A build tool: the system's if it serves, else the pinned package's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tool {
    /// Builds the shim.
    Cmake,
    /// What CMake drives where `make` is missing.
    Ninja,
    /// Reads the shim's header for the bindings.
    Libclang,
    /// Compiles for other systems.
    Zig,
}

/// What the shim's CMakeLists.txt and the packaged MLX config ask for.
const CMAKE_AT_LEAST: (u32, u32) = (3, 25);

impl Tool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cmake, Self::Ninja, Self::Libclang, Self::Zig];

    /// The package that carries it.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Cmake => "cmake",
            Self::Ninja => "ninja",
            Self::Libclang => "libclang",
            Self::Zig => "ziglang",
        }
    }

    /// The system's own, if it is there and new enough.
    #[must_use]
    pub fn system(self) -> Option<PathBuf> {
        match self {
            Self::Cmake => {
                let cmake = std::env::var_os("CMAKE").map_or_else(|| "cmake".into(), PathBuf::from);
                (cmake_version(&cmake)? >= CMAKE_AT_LEAST).then_some(cmake)
            }
            Self::Ninja => runs(Path::new("ninja"), "--version"),
            // bindgen searches the system by itself; this one is only a fallback.
            Self::Libclang => std::env::var_os("LIBCLANG_PATH").map(PathBuf::from),
            Self::Zig => runs(Path::new("zig"), "version"),
        }
    }

    /// The tool's program (for libclang, the folder with the library), fetched if the system
    /// has none.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tool`] if the fetched program does not run.
    pub fn locate(self, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        if let Some(found) = self.system() {
            return Ok(found);
        }
        self.fetch(&Cache::user()?, &Pins::builtin()?, progress)
    }

    /// The pinned tool from a given cache, fetched if needed.
    ///
    /// # Errors
    /// As [`Tool::locate`].
    pub fn fetch(
        self,
        cache: &Cache,
        pins: &Pins,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let folder = cache.fetch(pins.package(self.package())?, &Target::host(), progress)?;
        let (inside, question) = match self {
            Self::Cmake => ("cmake/data/bin/cmake", "--version"),
            Self::Ninja => ("bin/ninja", "--version"),
            Self::Libclang => return Ok(folder.join("clang/native")),
            Self::Zig => ("ziglang/zig", "version"),
        };
        let program = folder.join(inside);
        runs(&program, question).ok_or_else(|| Error::Tool {
            tool: self.package(),
            reason: format!("`{} {question}` fails", program.display()),
        })
    }
}

fn runs(program: &Path, argument: &str) -> Option<PathBuf> {
    let status = Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status
        .is_ok_and(|s| s.success())
        .then(|| program.to_owned())
}

fn cmake_version(cmake: &Path) -> Option<(u32, u32)> {
    let output = Command::new(cmake)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.split_whitespace().nth(2)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
