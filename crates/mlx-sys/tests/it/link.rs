//! The program finds MLX's library by itself.

use std::{ffi::CStr, process::Command};

use mlx_sys::vendor::Pins;
use object::{Object as _, ObjectSymbol as _};

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

/// Stands for a faster matrix product; nothing here multiplies matrices.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn cblas_dgemm() {
    std::process::abort();
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_may_supply_functions_that_the_library_calls() {
    // SAFETY: as above.
    let _ = unsafe { mlx_sys::version() };
    let data = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let program = object::File::parse(&*data).unwrap();
    // The dynamic linker takes a function from the program before the library's own companion,
    // if the program exports it; the link stub makes it do so.
    let exported = program
        .dynamic_symbols()
        .any(|symbol| symbol.is_definition() && symbol.name() == Ok("cblas_dgemm"));
    assert!(exported);
}
