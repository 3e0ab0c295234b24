//! Fetching: what can go wrong on the way, and what is left behind then.

use std::{fs, thread};

use mlx_sys::vendor::{Error, Progress, Target};

use crate::support::{Pip, Setup, WHEEL, assert_reads_well, entries, write_program};

const MEMBERS: &[(&str, &[u8])] = &[
    ("mlx/include/a.h", b"first"),
    ("mlx/lib/libmlx.so", b"second"),
];

#[test]
fn a_fetched_package_is_unpacked_once_and_then_reused() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    let folder = setup.fetch().unwrap();
    assert_eq!(folder, setup.path("cache/dist/demo-1.0"));
    assert_eq!(fs::read(folder.join("mlx/include/a.h")).unwrap(), b"first");
    assert_eq!(
        fs::read(folder.join("mlx/lib/libmlx.so")).unwrap(),
        b"second"
    );
    assert_eq!(entries(&setup.path("cache/tmp")).len(), 0);
    assert_eq!(setup.fetch().unwrap(), folder);
    assert_eq!(setup.calls(), 1);
}

#[test]
fn progress_ends_with_where_the_package_is() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    let mut seen = Vec::new();
    let folder = setup
        .cache()
        .fetch(setup.package(), &Target::host(), &mut |progress| {
            seen.push(progress)
        })
        .unwrap();
    let package = "demo 1.0".to_owned();
    assert_eq!(
        seen.last(),
        Some(&Progress::Ready {
            package: package.clone(),
            folder
        })
    );
    assert!(
        seen.contains(&Progress::Unpacking {
            package,
            done: 11,
            total: 11
        }),
        "{seen:?}"
    );
}

#[test]
fn a_wrong_digest_discards_the_download() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    fs::write(
        setup.path(WHEEL),
        crate::support::wheel(&[("mlx/evil", b"x")]),
    )
    .unwrap();
    let error = setup.fetch_error(&["wrong digest", WHEEL, "pip config list"]);
    assert!(matches!(error, Error::Digest { .. }));
}

#[test]
fn without_pip_the_message_says_how_to_get_it() {
    let setup = Setup::new(MEMBERS, &Pip::Absent);
    let error = setup.fetch_error(&["python3 with pip", "demo 1.0", "install", "MLX_DIR"]);
    assert!(matches!(error, Error::NoPip { .. }));
}

#[test]
fn any_of_the_usual_names_of_pip_will_do() {
    for name in ["pip3", "pip"] {
        let setup = Setup::new(MEMBERS, &Pip::Works);
        let script = fs::read_to_string(setup.path("bin/python3")).unwrap();
        // These are called without `-m pip` in front.
        let script = script.replace("\"$3\"", "\"$1\"");
        fs::remove_file(setup.path("bin/python3")).unwrap();
        write_program(&setup.path("bin").join(name), &script);
        setup.fetch().unwrap();
    }
}

#[test]
fn offline_forbids_a_fetch_but_not_the_use_of_the_cache() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    let offline = setup.cache().offline(true);
    let error = offline
        .fetch(setup.package(), &Target::host(), &mut |_| {})
        .unwrap_err();
    assert_reads_well(
        &error,
        &[
            "MLX_SYS_OFFLINE",
            "demo 1.0",
            "dist/demo-1.0",
            "cargo xtask vendor",
        ],
    );
    assert_eq!(setup.calls(), 0);
    assert!(
        !setup.path("cache").exists(),
        "an offline run creates nothing"
    );
    let folder = setup.fetch().unwrap();
    assert_eq!(
        offline
            .fetch(setup.package(), &Target::host(), &mut |_| {})
            .unwrap(),
        folder
    );
}

#[test]
fn an_unreachable_index_is_called_a_network_problem() {
    let setup = Setup::new(
        MEMBERS,
        &Pip::Says(
            "WARNING: Retrying after connection broken by 'NewConnectionError(\"Failed to establish a new connection: \
             [Errno -3] Temporary failure in name resolution\")': /simple/demo/\n\
             ERROR: Could not find a version that satisfies the requirement demo==1.0\n\
             ERROR: No matching distribution found for demo==1.0",
        ),
    );
    let error = setup.fetch_error(&[
        "no network",
        "demo 1.0",
        "Temporary failure",
        "pip config list",
    ]);
    assert!(matches!(error, Error::Network { .. }));
}

#[test]
fn another_failure_of_pip_is_quoted_with_the_command_to_repeat() {
    let setup = Setup::new(
        MEMBERS,
        &Pip::Says("ERROR: No matching distribution found for demo==1.0"),
    );
    let error = setup.fetch_error(&[
        "No matching distribution",
        "python3 -m pip download",
        "demo==1.0",
    ]);
    assert!(matches!(error, Error::Pip { .. }));
}

#[test]
fn a_python_whose_pip_is_missing_is_no_pip() {
    let setup = Setup::new(MEMBERS, &Pip::Says("/usr/bin/python3: No module named pip"));
    assert!(matches!(
        setup.fetch_error(&["python3 with pip"]),
        Error::NoPip { .. }
    ));
}

#[test]
fn what_a_killed_run_left_is_cleared_away() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    let left = setup.path("cache/tmp/demo/tree/mlx");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half"), b"half").unwrap();
    let folder = setup.fetch().unwrap();
    assert!(!folder.join("mlx/half").exists());
    assert_eq!(entries(&setup.path("cache/tmp")).len(), 0);
}

#[test]
fn a_damaged_package_in_the_cache_is_fetched_anew() {
    type Damage = fn(&std::path::Path);
    let damages: [Damage; 4] = [
        |folder| fs::remove_file(folder.join(".mlx-rust-manifest")).unwrap(),
        |folder| fs::remove_file(folder.join("mlx/include/a.h")).unwrap(),
        |folder| fs::write(folder.join("mlx/lib/libmlx.so"), b"sec").unwrap(),
        |folder| {
            let path = folder.join(".mlx-rust-manifest");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("sha256 ", "sha256 0")).unwrap();
        },
    ];
    let setup = Setup::new(MEMBERS, &Pip::Works);
    for (index, damage) in damages.iter().enumerate() {
        let folder = setup.fetch().unwrap();
        damage(&folder);
        assert_eq!(
            setup
                .cache()
                .find(setup.package(), &Target::host())
                .unwrap(),
            None
        );
        let folder = setup.fetch().unwrap();
        assert_eq!(fs::read(folder.join("mlx/include/a.h")).unwrap(), b"first");
        assert_eq!(
            fs::read(folder.join("mlx/lib/libmlx.so")).unwrap(),
            b"second"
        );
        assert_eq!(setup.calls(), index + 2);
    }
}

#[test]
fn racing_builds_fetch_once_and_all_succeed() {
    let setup = Setup::new(MEMBERS, &Pip::WorksSlowly);
    let waited = thread::scope(|scope| {
        let fetch = || {
            let mut waited = false;
            let mut watch = |progress| waited |= matches!(progress, Progress::Waiting { .. });
            let folder = setup
                .cache()
                .fetch(setup.package(), &Target::host(), &mut watch)
                .unwrap();
            assert_eq!(
                fs::read(folder.join("mlx/lib/libmlx.so")).unwrap(),
                b"second"
            );
            waited
        };
        let racers: Vec<_> = (0..6).map(|_| scope.spawn(fetch)).collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .filter(|&waited| waited)
            .count()
    });
    assert_eq!(setup.calls(), 1);
    assert!(waited > 0, "at least one of six had to wait");
}

#[test]
fn an_unwritable_cache_names_the_folder_and_the_way_out() {
    let setup = Setup::new(MEMBERS, &Pip::Works);
    // A file where a folder is needed stops even a user who may write everywhere.
    fs::write(setup.path("cache"), b"in the way").unwrap();
    let error = setup.fetch().unwrap_err();
    assert_reads_well(&error, &["cannot create", "cache", "MLX_CACHE_DIR"]);
    assert!(matches!(error, Error::Cache { .. }));
    assert_eq!(setup.calls(), 0);
}
