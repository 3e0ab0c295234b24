//! Safetensors: round trips, sharded files, and one test per way in which a header can lie.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_core::io::{SafetensorsFile, load_safetensors, save_safetensors};
use mlx_core::{Array, Complex32, Dtype, Error, Result, bf16, f16};

/// A file with this header and `len` zeros of data.
fn raw(header: &str, len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + len, 0);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(&path)
}

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &str) {
    match open_bytes(bytes) {
        Err(Error::Format { what, message }) => {
            assert!(what.contains("x.safetensors"), "{what}");
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        other => panic!("expected a format error, got {other:?}"),
    }
}

fn sample() -> Vec<u8> {
    raw(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}"#,
        19,
    )
}

#[test]
fn every_dtype_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let arrays = [
        ("bool", Array::from_slice(&[true, false], &[2]).unwrap()),
        ("u8", Array::from_slice(&[0_u8, 255], &[2]).unwrap()),
        ("u16", Array::from_slice(&[0, u16::MAX], &[2]).unwrap()),
        ("u32", Array::from_slice(&[0, u32::MAX], &[2]).unwrap()),
        ("u64", Array::from_slice(&[0, u64::MAX], &[2]).unwrap()),
        ("i8", Array::from_slice(&[i8::MIN, i8::MAX], &[2]).unwrap()),
        (
            "i16",
            Array::from_slice(&[i16::MIN, i16::MAX], &[2]).unwrap(),
        ),
        (
            "i32",
            Array::from_slice(&[i32::MIN, i32::MAX], &[2]).unwrap(),
        ),
        (
            "i64",
            Array::from_slice(&[i64::MIN, i64::MAX], &[2]).unwrap(),
        ),
        (
            "f16",
            Array::from_slice(&[f16::MIN, f16::MAX], &[2]).unwrap(),
        ),
        (
            "bf16",
            Array::from_slice(&[bf16::MIN, bf16::MAX], &[2]).unwrap(),
        ),
        (
            "f32",
            Array::from_slice(&[f32::MIN, f32::MAX], &[2]).unwrap(),
        ),
        (
            "f64",
            Array::from_slice(&[f64::MIN, f64::MAX], &[2]).unwrap(),
        ),
        (
            "c64",
            Array::from_slice(&[Complex32::new(1.0, -2.0); 2], &[2]).unwrap(),
        ),
        ("scalar", Array::from_slice(&[1.5_f32], &[0; 0]).unwrap()),
        ("empty", Array::from_slice::<f32>(&[], &[3, 0]).unwrap()),
    ];
    let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    save_safetensors(
        &path,
        arrays.iter().map(|(name, array)| (name, array)),
        &metadata,
    )
    .unwrap();

    let (copies, copied_metadata) = load_safetensors(&path).unwrap();
    assert_eq!(copied_metadata, metadata);
    assert_eq!(copies.len(), arrays.len());
    for (name, array) in &arrays {
        let copy = &copies[*name];
        assert_eq!(copy.dtype(), array.dtype(), "{name}");
        assert_eq!(copy.shape(), array.shape(), "{name}");
        assert_eq!(
            copy.to_bytes().unwrap(),
            array.to_bytes().unwrap(),
            "{name}"
        );
    }
    // The reference implementation agrees that the file is valid.
    let bytes = std::fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.len(), arrays.len());
    assert_eq!(reference.tensor("u16").unwrap().data(), [0, 0, 0xFF, 0xFF]);
}

#[test]
fn the_same_arrays_give_the_same_bytes_and_alignment() {
    let folder = tempfile::tempdir().unwrap();
    let byte = Array::from_slice(&[1_u8], &[1]).unwrap();
    let wide = Array::from_slice(&[1_i64], &[1]).unwrap();
    let metadata: HashMap<_, _> = (0..20).map(|i| (i.to_string(), i.to_string())).collect();
    let save = |name: &str, arrays: [(&str, &Array); 2]| {
        let path = folder.path().join(name);
        save_safetensors(&path, arrays, &metadata).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = save("first", [("a", &byte), ("b", &wide)]);
    let second = save("second", [("b", &wide), ("a", &byte)]);
    assert_eq!(first, second);
    let header = u64::from_le_bytes(first[..8].try_into().unwrap());
    assert_eq!(header % 8, 0);
    assert!(first.ends_with(&[1, 0, 0, 0, 0, 0, 0, 0, 1]));
}

#[test]
fn opening_is_lazy_and_describes_tensors() {
    let file = open_bytes(&sample()).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.len(), 2);
    assert_eq!(file.metadata()["format"], "pt");
    assert_eq!(file.shape("a").unwrap(), [2, 2]);
    assert_eq!(file.dtype("a").unwrap(), Dtype::Float32);
    assert_eq!(file.bytes("b").unwrap(), [0; 3]);
    assert_eq!(file.read("b").unwrap().to_vec::<u8>().unwrap(), [0; 3]);
    assert!(file.contains("a") && !file.contains("c"));
    let missing = file.read("c").unwrap_err();
    assert!(matches!(missing, Error::Format { message, .. } if message.contains("`c` is missing")));
}

#[test]
fn tensors_are_read_side_by_side_until_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.safetensors");
    let arrays: HashMap<String, Array> = (0..40_i32)
        .map(|at| {
            (
                format!("t{at}"),
                Array::full::<i32>(&[3000 + at], at).unwrap(),
            )
        })
        .collect();
    save_safetensors(&path, &arrays, &HashMap::new()).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    let mut wanted: Vec<&str> = file.names().filter(|name| *name != "t7").collect();
    wanted.push("absent");
    let mut read = HashMap::new();
    file.read_each(&wanted, |name, array| {
        read.insert(name.to_owned(), array);
        ControlFlow::Continue(())
    });
    assert_eq!(read.len(), 40);
    assert!(!read.contains_key("t7"));
    assert!(matches!(
        read.remove("absent"),
        Some(Err(Error::Format { .. }))
    ));
    for (name, array) in read {
        assert_eq!(
            array.unwrap().to_vec::<i32>().unwrap(),
            arrays[&name].to_vec::<i32>().unwrap()
        );
    }
    let mut count = 0;
    file.read_each(&wanted, |_, _| {
        count += 1;
        match count {
            5 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(count, 5);
}

#[test]
fn eight_bit_floats_are_bytes_and_smaller_ones_unsupported() {
    let file = open_bytes(&raw(
        r#"{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F4","shape":[4],"data_offsets":[2,4]}}"#,
        4,
    ))
    .unwrap();
    assert_eq!(file.read("a").unwrap().dtype(), Dtype::Uint8);
    let refused = file.read("b").unwrap_err();
    assert!(matches!(refused, Error::Unsupported(message) if message.contains("`b`")));
}

#[test]
fn names_are_unique_and_not_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let x = Array::from_slice(&[1_u8], &[1]).unwrap();
    for arrays in [vec![("x", &x), ("x", &x)], vec![("__metadata__", &x)]] {
        let refused = save_safetensors(&path, arrays, &HashMap::new());
        assert!(matches!(refused, Err(Error::Format { .. })));
    }
    assert!(!path.exists());
}

#[test]
fn writing_to_a_missing_folder_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/x.safetensors");
    let none: [(&str, &Array); 0] = [];
    let error = save_safetensors(&path, none, &HashMap::new()).unwrap_err();
    assert!(matches!(error, Error::Io { path: named, .. } if named == path));
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::create_dir(&path).unwrap();
    let array = Array::from_slice(&[1_u8], &[1]).unwrap();
    let error = save_safetensors(&path, [("x", &array)], &HashMap::new()).unwrap_err();
    assert!(matches!(error, Error::Io { path: named, .. } if named == path));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn shards(index: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("a", 1.0_f32), ("b", 2.0)] {
        let array = Array::from_slice(&[value], &[1]).unwrap();
        let path = folder.path().join(format!("{name}.safetensors"));
        save_safetensors(path, [(name, &array)], &HashMap::new()).unwrap();
    }
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, index).unwrap();
    (folder, path)
}

#[test]
fn an_index_opens_its_files_as_one() {
    let (_folder, path) = shards(
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"#,
    );
    let (arrays, _) = load_safetensors(&path).unwrap();
    assert_eq!(arrays["a"].to_vec::<f32>().unwrap(), [1.0]);
    assert_eq!(arrays["b"].to_vec::<f32>().unwrap(), [2.0]);
}

#[track_caller]
fn assert_index_refused(index: &str, expected: &str) {
    let (_folder, path) = shards(index);
    match SafetensorsFile::open(&path) {
        Err(Error::Format { what, message }) => {
            assert!(what.contains("index.json"), "{what}");
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        other => panic!("expected a format error, got {other:?}"),
    }
}

#[test]
fn index_that_is_no_index() {
    assert_index_refused("not json", "expected");
    assert_index_refused("{}", "weight_map");
    assert_index_refused(r#"{"weight_map":{"a":1}}"#, "string");
}

#[test]
fn index_that_reaches_outside_its_folder() {
    for name in [
        "../a.safetensors",
        "/etc/passwd",
        "..",
        "",
        "x/a.safetensors",
    ] {
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        assert_index_refused(&index, "no name of a file");
    }
}

#[test]
fn index_that_names_a_tensor_its_file_lacks() {
    let lacking = r#"{"weight_map":{"a":"a.safetensors","c":"a.safetensors"}}"#;
    assert_index_refused(lacking, "the first is `c`");
    let swapped = r#"{"weight_map":{"a":"b.safetensors","b":"a.safetensors"}}"#;
    assert_index_refused(swapped, "2 tensors");
}

#[test]
fn index_that_names_a_missing_file() {
    let (_folder, path) = shards(r#"{"weight_map":{"a":"missing.safetensors"}}"#);
    let error = SafetensorsFile::open(&path).unwrap_err();
    assert!(matches!(error, Error::Io { path, .. } if path.ends_with("missing.safetensors")));
}

#[test]
fn tensor_in_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let array = Array::from_slice(&[1_u8], &[1]).unwrap();
    let paths = ["1.safetensors", "2.safetensors"].map(|name| folder.path().join(name));
    for path in &paths {
        save_safetensors(path, [("same", &array)], &HashMap::new()).unwrap();
    }
    let error = SafetensorsFile::open_all(&paths).unwrap_err();
    assert!(matches!(error, Error::Format { message, .. } if message.contains("also in another")));
}

#[test]
fn every_truncation_is_a_format_error() {
    let bytes = sample();
    for len in 0..bytes.len() {
        match SafetensorsFile::from_bytes(&bytes[..len]) {
            Err(Error::Format { .. }) => {}
            other => panic!("{len} of {} bytes: {other:?}", bytes.len()),
        }
    }
}

#[test]
fn twenty_thousand_mutations_never_panic() {
    let original = sample();
    let mut random = 0xDEAD_BEEF_CAFE_F00D_u64;
    let mut opened = 0;
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..2 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let position = random as usize % bytes.len();
            bytes[position] ^= 1 << (random >> 32 & 7);
        }
        if let Ok(file) = SafetensorsFile::from_bytes(bytes) {
            opened += 1;
            for name in file.names() {
                drop(file.read(name));
            }
        }
    }
    assert!(opened > 100, "{opened}");
}

#[test]
fn header_length_that_lies() {
    assert_refused(&[], "shorter than the length");
    assert_refused(&u64::MAX.to_le_bytes(), "more than the limit");
    assert_refused(&1_000_u64.to_le_bytes(), "the file ends");
}

#[test]
fn header_that_is_no_json_object() {
    assert_refused(&raw("", 0), "header");
    assert_refused(&raw("[]", 0), "an object of tensors");
    assert_refused(&raw("{\"a\"", 0), "header");
    let mut bytes = raw("{} ", 0);
    bytes[9] = 0xFF;
    assert_refused(&bytes, "not UTF-8");
}

#[test]
fn header_nested_without_end() {
    assert_refused(&raw(&"{\"a\":".repeat(100_000), 0), "header");
    assert_refused(&raw(&"[".repeat(100_000), 0), "header");
}

#[test]
fn duplicate_tensor() {
    let tensor = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    assert_refused(
        &raw(&format!("{{{tensor},{tensor}}}"), 1),
        "tensor `a`: appears twice",
    );
    let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert_refused(&raw(metadata, 0), "appears twice");
}

#[track_caller]
fn assert_tensor_refused(tensor: &str, len: usize, expected: &str) {
    let header = format!("{{\"weight\":{tensor}}}");
    assert_refused(&raw(&header, len), "tensor `weight`");
    assert_refused(&raw(&header, len), expected);
}

#[test]
fn tensor_described_wrongly() {
    let missing = r#"{"dtype":"F32","shape":[1]}"#;
    assert_tensor_refused(missing, 4, "data_offsets");
    let unknown = r#"{"dtype":"F7","shape":[1],"data_offsets":[0,4]}"#;
    assert_tensor_refused(unknown, 4, "F7");
    let negative = r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#;
    assert_tensor_refused(negative, 4, "-1");
    let three = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#;
    assert_tensor_refused(three, 4, "trailing");
    assert_tensor_refused("7", 4, "invalid type");
}

#[test]
fn offsets_beyond_the_data() {
    let beyond = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    assert_tensor_refused(beyond, 3, "do not lie");
    let far =
        r#"{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}"#;
    assert_tensor_refused(far, 4, "do not lie");
}

#[test]
fn offsets_the_wrong_way_round() {
    let backwards = r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#;
    assert_tensor_refused(backwards, 4, "do not lie");
}

#[test]
fn shape_that_disagrees_with_the_offsets() {
    let small = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#;
    assert_tensor_refused(small, 4, "4 bytes for shape [2] of F32");
    let odd = r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#;
    assert_tensor_refused(odd, 1, "1 bytes for shape [3]");
}

#[test]
fn shape_that_overflows() {
    for shape in [
        "[2147483648]",
        "[2147483647,2147483647,2147483647]",
        "[2147483647,2147483647,2147483647,0]",
    ] {
        let tensor = format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}"#);
        assert_tensor_refused(&tensor, 0, "too large");
    }
}

#[test]
fn overlapping_tensors() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert_refused(&raw(header, 6), "tensor `b`: overlaps");
}

#[test]
fn gap_between_tensors() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}"#;
    assert_refused(&raw(header, 9), "tensor `b`: leaves a gap");
}

#[test]
fn bytes_after_the_last_tensor() {
    let mut bytes = sample();
    bytes.push(0);
    assert_refused(&bytes, "1 bytes at the end");
}

#[test]
fn paths_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        SafetensorsFile::open(folder.path()),
        Err(Error::Io { .. })
    ));
    let missing = Path::new("missing.safetensors");
    assert!(
        matches!(SafetensorsFile::open(missing), Err(Error::Io { path, .. }) if path == missing)
    );
}
