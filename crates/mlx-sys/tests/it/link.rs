//! The program finds MLX's library by itself.

use std::{ffi::CStr, process::Command};

use mlx_sys::vendor::Pins;

#[test]
fn the_linked_library_is_the_pinned_version_or_newer() {
    // SAFETY: the function returns static text.
    let version = unsafe { CStr::from_ptr(mlx_sys::version()) }
        .to_str()
        .unwrap();
    let numbers = |text: &str| {
        text.split('.')
            .map(|p| p.parse::<u32>().unwrap_or(0))
            .collect::<Vec<_>>()
    };
    assert!(
        numbers(version) >= numbers(&Pins::builtin().unwrap().mlx),
        "{version}"
    );
}

#[test]
fn a_program_starts_with_an_empty_environment_from_another_place() {
    // SAFETY: as above; the call keeps the library linked.
    let _ = unsafe { mlx_sys::version() };
    let folder = tempfile::tempdir().unwrap();
    let moved = folder.path().join("moved");
    // By another process: see `write_program` in support.rs.
    let copy = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&moved)
        .status();
    assert!(copy.unwrap().success());
    let output = Command::new(&moved)
        .env_clear()
        .arg("--list")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("link::"),
        "{output:?}"
    );
}
