//! The programs that a build runs.

use std::process::Command;

use super::{Fact, version};
use crate::fetch::{Pip, Tool};
use crate::sh;

pub(super) fn facts() -> Vec<Fact> {
    vec![
        rust(),
        compiler(),
        python(),
        tool("cmake", Tool::Cmake),
        libclang(),
        tool("zig", Tool::Zig),
    ]
}

fn rust() -> Fact {
    match version("rustc", &["--version"]) {
        Some(found) => Fact::ok("rust", found),
        None => Fact::missing("rust", "no rustc", "install Rust with rustup"),
    }
}

/// Compiles a line of C++20, which says more than a version number.
fn compiler() -> Fact {
    const HINT: &str = "install g++ 11 or clang 14 or later (Debian: `apt-get install g++`, \
        macOS: `xcode-select --install`), or name one in CXX";
    let program = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let Some(found) = version(&program, &["--version"]) else {
        return Fact::missing("c++", format!("`{program}` does not run"), HINT);
    };
    match compiles_cpp20(&program) {
        Ok(()) => Fact::ok("c++", found),
        Err(_) => Fact::missing("c++", format!("{found}, without C++20"), HINT),
    }
}

fn compiles_cpp20(program: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("probe.cpp");
    std::fs::write(
        &source,
        "#include <span>\n#include <concepts>\nstd::span<int> probe;\n",
    )?;
    let mut command = Command::new(program);
    command.args(["-std=c++20", "-fsyntax-only"]).arg(&source);
    sh::read(&mut command).map(drop)
}

fn python() -> Fact {
    match Pip::find() {
        Some(pip) => {
            let found = sh::read(pip.start().arg("--version")).unwrap_or_default();
            Fact::ok("pip", found.trim())
        }
        None => Fact::missing(
            "pip",
            "none",
            "install python3 with pip (Debian: `apt-get install python3-pip`), or set MLX_DIR \
             and CMAKE to what is installed",
        ),
    }
}

fn tool(name: &'static str, tool: Tool) -> Fact {
    match tool.system() {
        Some(path) => Fact::ok(name, path.display().to_string()),
        None => Fact::absent(
            name,
            "none on this system that serves",
            format!(
                "the package `{}` is fetched when it is needed",
                tool.package()
            ),
        ),
    }
}

fn libclang() -> Fact {
    tool("libclang", Tool::Libclang)
}
