//! npy and npz: NumPy's own files, round trips, and headers that lie.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use mlx_core::io::npy::{NpzLimits, decode_npy, decode_npz, load_npz_with};
use mlx_core::io::{load_npy, load_npz, save_npy, save_npz, save_npz_compressed};
use mlx_core::{Array, Complex32, Dtype, Error, Result, bf16, f16};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/core/npy")
        .join(name)
}

fn load_bytes(bytes: &[u8]) -> Result<Array> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    std::fs::write(&path, bytes).unwrap();
    load_npy(&path)
}

/// An npy file of version 1 with this header and `len` zeros of data.
fn npy(header: &str, len: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + len, 0);
    bytes
}

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &str) {
    match load_bytes(bytes) {
        Err(Error::Format { what, message }) => {
            assert!(what.contains("x.npy"), "{what}");
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        other => panic!("expected a format error, got {other:?}"),
    }
}

#[track_caller]
fn assert_unsupported(descr: &str) {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (), }}\n");
    match load_bytes(&npy(&header, 8)) {
        Err(Error::Unsupported(message)) => assert!(message.contains("elements of type")),
        other => panic!("{descr}: expected an unsupported error, got {other:?}"),
    }
}

#[test]
fn numpys_npz_files_are_read() {
    for file in ["stored.npz", "deflated.npz"] {
        let arrays = load_npz(fixture(file)).unwrap();
        assert_eq!(arrays.len(), 19);
        let numbers = [0, 1, 2, 3, 4, 5];
        let float = |name: &str| arrays[name].to_vec::<f32>().unwrap();
        assert_eq!(
            arrays["bool"].to_vec::<bool>().unwrap(),
            [false, true, true, true, true, true]
        );
        assert_eq!(arrays["uint8"].to_vec::<u8>().unwrap(), numbers);
        assert_eq!(
            arrays["uint16"].to_vec::<u16>().unwrap(),
            numbers.map(u16::from)
        );
        assert_eq!(
            arrays["uint32"].to_vec::<u32>().unwrap(),
            numbers.map(u32::from)
        );
        assert_eq!(
            arrays["uint64"].to_vec::<u64>().unwrap(),
            numbers.map(u64::from)
        );
        assert_eq!(
            arrays["int8"].to_vec::<i8>().unwrap(),
            numbers.map(|x| x as i8)
        );
        assert_eq!(
            arrays["int16"].to_vec::<i16>().unwrap(),
            numbers.map(i16::from)
        );
        assert_eq!(
            arrays["int32"].to_vec::<i32>().unwrap(),
            numbers.map(i32::from)
        );
        assert_eq!(
            arrays["int64"].to_vec::<i64>().unwrap(),
            numbers.map(i64::from)
        );
        assert_eq!(
            arrays["float16"].to_vec::<f16>().unwrap(),
            numbers.map(f16::from)
        );
        assert_eq!(float("float32"), numbers.map(f32::from));
        assert_eq!(
            arrays["float64"].to_vec::<f64>().unwrap(),
            numbers.map(f64::from)
        );
        assert_eq!(
            arrays["complex64"].to_vec::<Complex32>().unwrap(),
            numbers.map(|x| Complex32::new(x.into(), 0.0))
        );
        assert_eq!(arrays["float32"].shape(), [2, 3]);
        assert_eq!(arrays["scalar"].shape(), [0; 0]);
        assert_eq!(float("scalar"), [2.5]);
        assert_eq!(arrays["empty"].shape(), [0, 3]);
        assert_eq!(arrays["vector"].to_vec::<i32>().unwrap(), [1, 2, 3]);
        assert_eq!(arrays["fortran"].shape(), [2, 3]);
        assert_eq!(float("fortran"), numbers.map(f32::from));
        assert_eq!(float("big_endian"), numbers.map(f32::from));
        assert_eq!(
            arrays["big_endian_complex"].to_vec::<Complex32>().unwrap(),
            numbers.map(|x| Complex32::new(x.into(), 1.0))
        );
    }
}

#[test]
fn every_version_is_read() {
    for version in 1..=3 {
        let array = load_npy(fixture(&format!("version{version}.npy"))).unwrap();
        assert_eq!(array.shape(), [2, 3]);
        assert_eq!(
            array.to_vec::<f32>().unwrap(),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
    }
}

#[test]
fn mlxs_bfloat16_is_read() {
    let array = load_npy(fixture("bfloat16.npy")).unwrap();
    let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0].map(bf16::from_f32);
    assert_eq!(array.to_vec::<bf16>().unwrap(), expected);
}

#[test]
fn written_bytes_are_numpys() {
    let array = load_npy(fixture("version1.npy")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    save_npy(&path, &array).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(fixture("version1.npy")).unwrap()
    );
}

#[test]
fn shapes_of_any_rank_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let shapes: [&[i32]; 6] = [&[], &[1], &[4], &[2, 0], &[1, 2, 3], &[1; 12]];
    for shape in shapes {
        let size = shape.iter().product::<i32>() as usize;
        let array = Array::from_vec(vec![7_u8; size], &shape).unwrap();
        save_npy(&path, &array).unwrap();
        let copy = load_npy(&path).unwrap();
        assert_eq!(copy.shape(), shape);
        assert_eq!(copy.dtype(), Dtype::Uint8);
    }
}

#[test]
fn npz_files_survive_stored_and_deflated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xy.npz");
    let x = Array::from_vec(vec![1.5_f32; 1000], &[10, 100]).unwrap();
    let y = Array::from_slice(&[true, false], &[2]).unwrap();
    for compressed in [false, true] {
        let arrays = [("x", &x), ("sub/y", &y)];
        if compressed {
            save_npz_compressed(&path, arrays).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() < 1000);
        } else {
            save_npz(&path, arrays).unwrap();
        }
        let copies = load_npz(&path).unwrap();
        assert_eq!(copies.len(), 2);
        assert_eq!(copies["x"].to_vec::<f32>().unwrap(), vec![1.5; 1000]);
        assert_eq!(copies["sub/y"].to_vec::<bool>().unwrap(), [true, false]);
    }
    let twice = save_npz(&path, [("x", &x), ("x", &x)]);
    assert!(matches!(twice, Err(Error::Format { .. })));
}

#[test]
fn elements_that_arrays_cannot_hold_are_unsupported() {
    for descr in [
        "'|O'",
        "'<U3'",
        "'|S5'",
        "'<M8[ns]'",
        "'<c16'",
        "'<f16'",
        "''",
        "'é'",
    ] {
        assert_unsupported(descr);
    }
    assert_unsupported("[('x', '<f4'), ('y', '<f4')]");
}

#[test]
fn every_truncation_is_a_format_error() {
    for file in ["version1.npy", "version2.npy", "bfloat16.npy"] {
        let bytes = std::fs::read(fixture(file)).unwrap();
        for len in 0..bytes.len() {
            match decode_npy(&bytes[..len]) {
                Err(Error::Format { .. }) => {}
                other => panic!("{len} of {} bytes: {other:?}", bytes.len()),
            }
        }
    }
}

#[test]
fn twenty_thousand_mutations_never_panic() {
    for (file, rounds) in [("version1.npy", 15_000), ("deflated.npz", 5000)] {
        let original = std::fs::read(fixture(file)).unwrap();
        let mut random = 0x1234_5678_9ABC_DEF1_u64;
        for _ in 0..rounds {
            let mut bytes = original.clone();
            for _ in 0..2 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let position = random as usize % bytes.len();
                bytes[position] ^= 1 << (random >> 32 & 7);
            }
            if file.ends_with("npz") {
                drop(decode_npz(&bytes, &NpzLimits::default()));
            } else {
                drop(decode_npy(&bytes));
            }
        }
    }
}

#[test]
fn no_magic() {
    assert_refused(b"not an npy file", "does not start");
    assert_refused(b"", "does not start");
}

#[test]
fn unknown_version() {
    let mut bytes = npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n",
        4,
    );
    bytes[6] = 4;
    assert_refused(&bytes, "version 4");
}

#[test]
fn header_longer_than_the_file() {
    let mut bytes = npy("{}", 0);
    bytes[8] = 200;
    assert_refused(&bytes, "ends inside the header");
    assert_refused(
        b"\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF{}",
        "ends inside the header",
    );
}

#[test]
fn shape_that_disagrees_with_the_data() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n";
    for len in [0, 8, 11, 13, 16] {
        assert_refused(&npy(header, len), "expected 12");
    }
    assert_eq!(load_bytes(&npy(header, 12)).unwrap().shape(), [3]);
}

#[test]
fn shape_that_overflows() {
    for shape in [
        "(9223372036854775807,)",
        "(99999999999999999999,)",
        "(2147483647, 2147483647, 2147483647)",
        "(2147483648,)",
        "(-1,)",
        "(1e3,)",
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        assert!(
            matches!(load_bytes(&npy(&header, 4)), Err(Error::Format { .. })),
            "{shape}"
        );
    }
}

#[test]
fn headers_that_are_no_dictionary_of_the_three_keys() {
    for (header, expected) in [
        ("", "expected `{`"),
        ("{", "expected `'`"),
        ("{'descr", "does not end"),
        ("{'descr': '<f4'}", "`fortran_order` is missing"),
        (
            "{'fortran_order': False, 'shape': ()}",
            "`descr` is missing",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False}",
            "`shape` is missing",
        ),
        ("{'descr': '<f4', 'descr': '<f4'}", "appears twice"),
        ("{'other': 1}", "unknown key"),
        ("{'fortran_order': 0}", "neither True nor False"),
        ("{'shape': [1]}", "expected `(`"),
        ("{'descr': [('x', '<f4')", "does not end"),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': ()} x",
            "after the dictionary",
        ),
    ] {
        assert_refused(&npy(header, 4), expected);
    }
    assert_refused(
        &npy(&format!("{{'shape': ({}", "1,".repeat(100)), 0),
        "64 dimensions",
    );
}

fn npz(entries: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    (folder, path)
}

#[test]
fn npz_entries_must_be_arrays() {
    let (_folder, path) = npz(&[("readme.txt", b"hello")]);
    let error = load_npz(&path).unwrap_err();
    assert!(matches!(&error, Error::Format { message, .. } if message.contains("readme.txt")));
    let (_folder, path) = npz(&[("x.npy", b"hello")]);
    let error = load_npz(&path).unwrap_err();
    assert!(matches!(&error, Error::Format { what, .. } if what.contains("array `x`")));
}

#[test]
fn npz_that_unpacks_to_more_than_the_limit() {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000,), }\n";
    let (_folder, path) = npz(&[("x.npy", &npy(header, 1_000_000))]);
    assert!(std::fs::metadata(&path).unwrap().len() < 5000);
    load_npz(&path).unwrap();
    for limits in [
        NpzLimits::default().max_bytes(999_999),
        NpzLimits::default().max_arrays(0),
    ] {
        let error = load_npz_with(&path, &limits).unwrap_err();
        assert!(matches!(&error, Error::Format { message, .. } if message.contains("limit")));
    }
}

#[test]
fn npz_with_a_wrong_checksum_or_size() {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (100,), }\n";
    let (_folder, path) = npz(&[("x.npy", &npy(header, 100))]);
    let original = std::fs::read(&path).unwrap();
    let central = original
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap();
    // Of the central directory's fields: checksum at 16, unpacked size at 24.
    for field in [central + 16, central + 24] {
        let mut bytes = original.clone();
        bytes[field] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(
            matches!(load_npz(&path), Err(Error::Format { .. })),
            "byte {field}"
        );
    }
}
