//! Where `unsafe` may stand: at the boundary, and nowhere above it.

use std::path::Path;

use super::Finding;
use super::source::{SourceFile, code_only, lines_with_word};
use crate::metadata::Package;

/// Crates that speak to C++. Every other crate forbids unsafe code at its root.
const BOUNDARY_CRATES: &[&str] = &[
    "mlx-sys",
    "mlx-core",
    "mlx-transforms",
    "mlx-tests",
    "xtask",
];

/// The files that may hold `unsafe`, by the start of their path.
const BOUNDARY_FILES: &[&str] = &[
    "crates/mlx-sys/",
    "crates/mlx-core/src/ffi.rs",
    "crates/mlx-core/src/ffi/",
    // Ops without their checks, which only their callers can vouch for, and what the checks cost.
    "crates/mlx-core/src/ops/unchecked.rs",
    "crates/mlx-core/benches/checks.rs",
    "crates/mlx-transforms/src/closure.rs",
    "crates/mlx-transforms/src/closure/",
    // Calls the C symbols that `ffi` exports to MLX.
    "crates/mlx-core/tests/it/cpu_kernels.rs",
    // Builds custom kernels, whose source nobody checks.
    "crates/mlx-core/tests/it/kernels.rs",
    // Imports functions, whose files must be vouched for.
    "crates/mlx-transforms/tests/it/export.rs",
    "tests/it/transform_fuzz/files.rs",
    // Hands pointers to a script, and takes them.
    "tests/examples/dlpack.rs",
    // Where libclang lies can be said through an environment variable only.
    "xtask/src/bindgen.rs",
];

pub(super) fn check_file(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust()
        || BOUNDARY_FILES
            .iter()
            .any(|start| file.path.starts_with(start))
    {
        return Vec::new();
    }
    lines_with_word(&code_only(&file.text), "unsafe")
        .into_iter()
        .map(|line| {
            let place = format!("{}:{line}", file.path);
            Finding::error(place, "unsafe code stands at the foreign boundary only")
        })
        .collect()
}

/// Library and program roots above the boundary forbid unsafe code, so that the
/// compiler proves what [`check_file`] reads.
pub(super) fn check_roots(
    packages: &[Package],
    workspace: &Path,
    sources: &[SourceFile],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        if BOUNDARY_CRATES.contains(&package.name.as_str()) {
            continue;
        }
        for target in package.targets.iter().filter(|target| target.is_shipped()) {
            let path = Path::new(&target.src_path);
            let path = path
                .strip_prefix(workspace)
                .unwrap_or(path)
                .to_string_lossy();
            let root = sources.iter().find(|file| file.path == path);
            let forbids =
                root.is_some_and(|file| code_only(&file.text).contains("#![forbid(unsafe_code)]"));
            if !forbids {
                findings.push(Finding::error(path, "add `#![forbid(unsafe_code)]`"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metadata::Target;

    #[test]
    fn unsafe_is_lawful_at_the_boundary_only() {
        let text = "fn f() { unsafe { g() } }";
        let count = |path: &str| check_file(&SourceFile::new(path, text)).len();
        assert_eq!(count("crates/mlx-core/src/ffi/array.rs"), 0);
        assert_eq!(count("crates/mlx-core/src/ops.rs"), 1);
        assert_eq!(count("crates/mlx-nn/src/linear.rs"), 1);
        assert_eq!(count("notes.md"), 0);
    }

    #[test]
    fn roots_above_the_boundary_forbid_unsafe_code() {
        let package = |name: &str| Package {
            name: name.to_owned(),
            dependencies: Vec::new(),
            features: BTreeMap::new(),
            targets: vec![Target {
                kind: vec!["lib".to_owned()],
                src_path: "/ws/crates/a/src/lib.rs".to_owned(),
            }],
        };
        let check = |name: &str, text: &str| {
            let sources = [SourceFile::new("crates/a/src/lib.rs", text)];
            check_roots(&[package(name)], Path::new("/ws"), &sources).len()
        };
        assert_eq!(check("mlx-nn", "//! Layers.\n#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(check("mlx-nn", "// #![forbid(unsafe_code)]\n"), 1);
        assert_eq!(check("mlx-core", ""), 0);
    }
}
