//! A disk that fills up while a package is unpacked or downloaded.
//!
//! The limits can be set only around a whole process, so one test is run again by others, in a
//! process of its own, with the limit and the expectation in its environment.

use std::{
    path::Path,
    process::{Command, Output},
};

use mlx_sys::vendor::Error;

use crate::support::{Pip, Setup};

const EXPECT: &str = "MLX_SYS_TEST_EXPECTS_FULL_DISK";
const NAME: &str = "disk_full::a_megabyte_of_zeros_is_unpacked_or_reported";

#[test]
fn a_megabyte_of_zeros_is_unpacked_or_reported() {
    // Compressed, it passes every limit below; unpacked, none.
    let setup = Setup::new(
        &[("mlx/small", b"x"), ("mlx/zeros", &vec![0; 1 << 20])],
        &Pip::Works,
    );
    if std::env::var_os(EXPECT).is_some() {
        let error = setup.fetch_error(&["disk full", "mlx/zeros", "MLX_CACHE_DIR"]);
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        println!("reported");
    } else {
        let folder = setup.fetch().unwrap();
        assert_eq!(
            std::fs::metadata(folder.join("mlx/zeros")).unwrap().len(),
            1 << 20
        );
    }
}

/// Runs the test above by way of a shell that first sets the limit.
fn under(shell: &mut Command, prelude: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    shell
        .arg("-c")
        .arg(format!("{prelude}; exec \"$0\" --exact {NAME} --nocapture"))
        .arg(program)
        .env(EXPECT, "1")
        .output()
        .unwrap()
}

fn assert_reported(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("reported"),
        "{output:?}"
    );
}

#[test]
fn a_limit_on_file_sizes_is_reported_as_a_full_disk() {
    // With the signal ignored, writing past the limit is an ordinary error.
    assert_reported(&under(
        &mut Command::new("sh"),
        "trap '' XFSZ; ulimit -f 64",
    ));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_file_system_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=256k tmpfs '{}'",
        folder.path().display()
    );
    // Root makes the mount directly, others in a user namespace where the system allows it.
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let trial = Command::new("unshare")
            .args(**way)
            .args(["sh", "-c", &mount])
            .output();
        trial.is_ok_and(|output| output.status.success())
    };
    let Some(way) = ways.iter().find(works) else {
        eprintln!(
            "SKIPPED: a full file system: this machine lets nobody mount a tmpfs; \
             `a_limit_on_file_sizes_is_reported_as_a_full_disk` covers the same path"
        );
        return;
    };
    let mut shell = Command::new("unshare");
    shell.args(*way).arg("sh").env("TMPDIR", folder.path());
    assert_reported(&under(&mut shell, &mount));
    assert_eq!(
        crate::support::entries(Path::new(folder.path())).len(),
        0,
        "the mount was private"
    );
}

#[test]
fn a_full_disk_while_pip_downloads_is_reported() {
    let setup = Setup::new(
        &[("mlx/small", b"x")],
        &Pip::Says(
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        ),
    );
    assert!(matches!(
        setup.fetch_error(&["disk full", "MLX_CACHE_DIR"]),
        Error::DiskFull { .. }
    ));
}
