//! The lock file that ships with the crate.

use mlx_sys::vendor::{Backend, Kind, Pins, Target, Tool, fetch_model, models};

use crate::support::assert_reads_well;

#[test]
fn every_file_has_a_full_digest_and_a_wheel_name() {
    for package in Pins::builtin().unwrap().packages {
        assert!(!package.files.is_empty(), "{}", package.name);
        for file in &package.files {
            let digest = &file.sha256;
            assert!(
                digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
                "{}",
                file.name
            );
            let stem = package.name.replace('-', "_");
            assert!(
                file.name
                    .starts_with(&format!("{stem}-{}-", package.version)),
                "{}",
                file.name
            );
        }
    }
}

#[test]
fn each_backend_has_a_file_for_its_platforms() {
    let pins = Pins::builtin().unwrap();
    for backend in Backend::ALL {
        let package = pins.package(backend.package()).unwrap();
        assert_eq!(package.version, pins.mlx);
        for arch in ["x86_64", "aarch64"] {
            let target = backend.target(&Target::new("linux", arch));
            package.file(&target).unwrap();
        }
        assert_eq!(backend.to_string().parse(), Ok(backend));
    }
}

#[test]
fn each_tool_has_a_file_for_every_host() {
    let pins = Pins::builtin().unwrap();
    for tool in Tool::ALL {
        for (os, arch) in [
            ("linux", "x86_64"),
            ("linux", "aarch64"),
            ("macos", "aarch64"),
        ] {
            pins.package(tool.package())
                .unwrap()
                .file(&Target::new(os, arch))
                .unwrap();
        }
    }
}

#[test]
fn cuda_backends_have_their_libraries_pinned() {
    let pins = Pins::builtin().unwrap();
    for backend in Backend::ALL.into_iter().filter(|b| b.is_cuda()) {
        let names: Vec<_> = pins
            .packages
            .iter()
            .filter(|p| p.kind == Kind::Nvidia && p.needed_by.as_deref() == Some(backend.package()))
            .map(|p| p.name.as_str())
            .collect();
        for part in ["cublas", "cudnn", "cufft", "cusolver", "nvrtc", "nccl"] {
            assert!(
                names.iter().any(|name| name.contains(part)),
                "{backend}: {part} in {names:?}"
            );
        }
    }
}

#[test]
fn an_unsupported_platform_is_named_with_the_supported_ones() {
    let pins = Pins::builtin().unwrap();
    let error = pins
        .package("mlx-cpu")
        .unwrap()
        .file(&Target::new("windows", "x86_64"))
        .unwrap_err();
    assert_reads_well(&error, &["mlx-cpu", "windows-x86_64", "linux-x86_64"]);
    assert_reads_well(
        &pins.package("nothing").unwrap_err(),
        &["nothing", "mlx-cpu"],
    );
}

#[test]
fn the_models_have_short_names() {
    let names: Vec<_> = models().unwrap().into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["smollm2-135m-instruct", "all-minilm-l6-v2"]);
}

#[test]
fn an_unknown_model_is_answered_with_the_known_ones() {
    let error = fetch_model("nothing", &mut |_| {}).unwrap_err();
    assert_reads_well(&error, &["nothing", "smollm2-135m-instruct"]);
}

#[test]
fn a_lock_file_with_an_unknown_key_is_refused() {
    let error = Pins::parse("mlx = \"1\"\nsurprise = 1\npackage = []\n").unwrap_err();
    assert_reads_well(&error, &["mlx.lock.toml", "surprise"]);
}
