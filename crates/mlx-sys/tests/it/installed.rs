//! `MLX_DIR`: a good, an old and several broken installs.

use std::{fs, path::Path};

use mlx_sys::vendor::{Error, Mlx, Target};
use tempfile::TempDir;

use crate::support::assert_reads_well;

fn linux() -> Target {
    Target::new("linux", "x86_64")
}

fn install(version: (u32, u32, u32), library: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("include/mlx")).unwrap();
    let (major, minor, patch) = version;
    let header = format!(
        "#pragma once\n#define MLX_VERSION_MAJOR {major}\n#define MLX_VERSION_MINOR {minor}\n\
         #define MLX_VERSION_PATCH {patch}\n#define MLX_VERSION_NUMERIC 1\n"
    );
    fs::write(root.path().join("include/mlx/version.h"), header).unwrap();
    let library = root.path().join(library);
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::write(library, b"").unwrap();
    root
}

fn refused(root: &Path, words: &[&str]) {
    let error = Mlx::installed(root, &linux(), "0.32.4").unwrap_err();
    assert_reads_well(&error, words);
    assert_reads_well(
        &error,
        &["MLX_DIR=", &root.display().to_string(), "unset it"],
    );
    assert!(matches!(error, Error::Install { .. }));
}

#[test]
fn a_good_install_is_used_as_it_is() {
    for library in [
        "lib/libmlx.so",
        "lib64/libmlx.so",
        "lib/x86_64-linux-gnu/libmlx.so",
    ] {
        let root = install((0, 32, 4), library);
        let mlx = Mlx::installed(root.path(), &linux(), "0.32.4").unwrap();
        assert!(mlx.installed);
        assert_eq!(mlx.version, "0.32.4");
        assert_eq!(mlx.library, root.path().join(library));
        assert!(mlx.include.join("mlx/version.h").is_file());
    }
}

#[test]
fn a_newer_install_is_accepted() {
    let root = install((0, 33, 0), "lib/libmlx.so");
    assert_eq!(
        Mlx::installed(root.path(), &linux(), "0.32.4")
            .unwrap()
            .version,
        "0.33.0"
    );
}

#[test]
fn an_old_install_is_refused_with_both_versions() {
    let root = install((0, 31, 9), "lib/libmlx.so");
    refused(root.path(), &["it holds MLX 0.31.9", "0.32.4 or newer"]);
}

#[test]
fn a_missing_folder_is_named() {
    refused(Path::new("/no/such/folder"), &["cannot be opened"]);
}

#[test]
fn an_install_without_headers_is_refused() {
    let root = tempfile::tempdir().unwrap();
    refused(root.path(), &["cannot read", "include/mlx/version.h"]);
}

#[test]
fn a_header_without_a_version_is_refused() {
    let root = install((0, 32, 4), "lib/libmlx.so");
    fs::write(
        root.path().join("include/mlx/version.h"),
        "#define MLX_VERSION_MAJOR x\n",
    )
    .unwrap();
    refused(root.path(), &["does not define the version"]);
}

#[test]
fn an_install_without_the_library_is_refused() {
    let root = install((0, 32, 4), "lib/something-else");
    refused(root.path(), &["there is no libmlx.so"]);
}

#[test]
fn a_static_library_alone_is_refused_with_advice() {
    let root = install((0, 32, 4), "lib/libmlx.a");
    refused(root.path(), &["libmlx.a", "-DBUILD_SHARED_LIBS=ON"]);
}

#[test]
fn the_library_has_another_name_on_macos() {
    let root = install((0, 32, 4), "lib/libmlx.so");
    let error =
        Mlx::installed(root.path(), &Target::new("macos", "aarch64"), "0.32.4").unwrap_err();
    assert_reads_well(&error, &["libmlx.dylib"]);
}
