//! NVIDIA's libraries beside a CUDA build.

use std::fs;

use mlx_sys::vendor::{Backend, Target, nvidia};

use crate::support::{Pip, Setup, assert_reads_well, wheel};

const NVIDIA: &str = "kind = \"nvidia\"\nfor = \"mlx-cuda-13\"";

#[test]
fn packages_that_share_a_folder_are_merged_beside_the_library() {
    let mlx = wheel(&[("mlx/lib/libmlx.so", b"library")]);
    let first = wheel(&[
        ("nvidia/cu13/lib/libcublas.so", b"blas"),
        ("nvidia/__init__.py", b""),
    ]);
    let second = wheel(&[
        ("nvidia/cu13/lib/libcufft.so", b"fft"),
        ("nvidia/__init__.py", b""),
    ]);
    let other = wheel(&[("nvidia/old/lib/libcublas.so", b"old")]);
    let setup = Setup::with_packages(
        &[
            ("mlx-cuda-13", "kind = \"mlx\"", &mlx),
            ("nvidia-cublas", NVIDIA, &first),
            ("nvidia-cufft", NVIDIA, &second),
            (
                "nvidia-cublas-cu12",
                "kind = \"nvidia\"\nfor = \"mlx-cuda-12\"",
                &other,
            ),
        ],
        &Pip::Works,
    );
    let fetch = || {
        let (cache, target) = (setup.cache(), Target::new("linux", "x86_64"));
        nvidia::fetch(&cache, &setup.pins, Backend::Cuda13, &target, &mut |_| {}).unwrap()
    };
    let folder = fetch();
    assert_eq!(folder, setup.path("cache/dist/mlx-cuda-13-1.0/nvidia"));
    assert_eq!(
        fs::read(folder.join("cu13/lib/libcublas.so")).unwrap(),
        b"blas"
    );
    assert_eq!(
        fs::read(folder.join("cu13/lib/libcufft.so")).unwrap(),
        b"fft"
    );
    assert!(
        !folder.join("old").exists(),
        "the other backend's libraries stay away"
    );
    assert_eq!(fetch(), folder);
    assert_eq!(setup.calls(), 3);
}

#[test]
fn a_cuda_build_without_pinned_libraries_is_an_error() {
    let mlx = wheel(&[("mlx/lib/libmlx.so", b"library")]);
    let setup = Setup::with_packages(&[("mlx-cuda-13", "kind = \"mlx\"", &mlx)], &Pip::Works);
    let target = Target::new("linux", "x86_64");
    let error = nvidia::fetch(
        &setup.cache(),
        &setup.pins,
        Backend::Cuda13,
        &target,
        &mut |_| {},
    );
    assert_reads_well(
        &error.unwrap_err(),
        &["NVIDIA", "cargo xtask vendor --update"],
    );
}
