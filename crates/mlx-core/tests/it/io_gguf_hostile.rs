//! One test per way in which a GGUF header can lie.

use mlx_core::io::gguf::{GgufFile, Limits};
use mlx_core::{Error, Result};

use crate::io_gguf::fixture;

const F32: u32 = 0;
const Q4_0: u32 = 2;

#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(version: u32, tensors: u64, pairs: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(pairs)
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn str(self, text: &str) -> Self {
        self.raw_str(text.len() as u64, text.as_bytes())
    }

    fn raw_str(self, len: u64, bytes: &[u8]) -> Self {
        let mut longer = self.u64(len);
        longer.0.extend(bytes);
        longer
    }

    fn tensor(self, name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Self {
        let mut longer = self.str(name).u32(dims.len() as u32);
        for &dim in dims {
            longer = longer.u64(dim);
        }
        longer.u32(ggml_type).u64(offset)
    }

    fn data(mut self, len: usize) -> Self {
        let aligned = self.0.len().next_multiple_of(32);
        self.0.resize(aligned + len, 0);
        self
    }

    fn open(self) -> Result<GgufFile> {
        GgufFile::from_bytes(self.0, &Limits::default())
    }
}

#[track_caller]
fn assert_refused(bytes: Bytes, expected: &str) {
    match bytes.open() {
        Err(Error::Format { message, .. }) => {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        other => panic!("expected a format error, got {other:?}"),
    }
}

#[track_caller]
fn assert_unsupported(bytes: Bytes, expected: &str) {
    match bytes.open() {
        Err(Error::Unsupported(message)) => {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        other => panic!("expected an unsupported error, got {other:?}"),
    }
}

#[test]
fn an_honest_file_opens() {
    let file = Bytes::header(2, 1, 1)
        .str("flag")
        .u32(7)
        .u8(1)
        .tensor("t", &[32, 2], Q4_0, 0)
        .data(36)
        .open()
        .unwrap();
    assert_eq!(file.tensor("t").unwrap().shape(), [2, 32]);
    assert!(Bytes::header(3, 0, 0).open().unwrap().tensors().is_empty());
}

#[test]
fn every_truncation_is_a_format_error() {
    let bytes = std::fs::read(fixture().join("blocks.gguf")).unwrap();
    // The padding after the last tensor may be missing, its last byte may not.
    let file = GgufFile::from_bytes(bytes.clone(), &Limits::default()).unwrap();
    let last = file.tensors().last().unwrap().nbytes();
    let padding = last.next_multiple_of(32) - last;
    let end = bytes.len() - padding;
    for len in 0..end {
        match GgufFile::from_bytes(&bytes[..len], &Limits::default()) {
            Err(Error::Format { .. }) => {}
            other => panic!("{len} of {} bytes: {other:?}", bytes.len()),
        }
    }
    GgufFile::from_bytes(&bytes[..end], &Limits::default()).unwrap();
}

#[test]
fn twenty_thousand_mutations_never_panic() {
    let original = std::fs::read(fixture().join("blocks.gguf")).unwrap();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..1 + next() % 4 {
            // Three in four hit the header, which is the first half of the file.
            let range = if next() % 4 == 0 {
                bytes.len()
            } else {
                bytes.len() / 2
            };
            let position = next() % range;
            bytes[position] = match next() % 3 {
                0 => bytes[position] ^ (1 << (next() % 8)),
                1 => 0xFF,
                _ => next() as u8,
            };
        }
        match GgufFile::from_bytes(bytes, &Limits::default()) {
            Ok(file) => {
                opened += 1;
                for tensor in file.views() {
                    let _ = tensor.dequantize();
                    let _ = tensor.repack(Default::default());
                }
            }
            Err(Error::Format { .. } | Error::Unsupported(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(
        opened > 1000 && refused > 1000,
        "{opened} opened, {refused} refused"
    );
}

#[test]
fn no_magic() {
    assert_refused(Bytes::default(), "`GGUF`");
    assert_refused(Bytes(b"GGML\x03\0\0\0".to_vec()), "`GGUF`");
}

#[test]
fn unknown_version() {
    assert_refused(Bytes::header(4, 0, 0), "version 4");
    assert_refused(Bytes::header(0, 0, 0), "version 0");
}

#[test]
fn first_version() {
    assert_unsupported(Bytes::header(1, 0, 0), "version 1");
}

#[test]
fn big_endian() {
    assert_unsupported(Bytes::header(3_u32.swap_bytes(), 0, 0), "big-endian");
}

#[test]
fn more_tensors_than_bytes() {
    assert_refused(Bytes::header(3, 1000, 0), "1000 tensors do not fit");
    assert_refused(Bytes::header(3, u64::MAX, 0), "more than the limit");
}

#[test]
fn more_metadata_than_bytes() {
    assert_refused(Bytes::header(3, 0, 1000), "1000 metadata pairs do not fit");
    assert_refused(Bytes::header(3, 0, u64::MAX), "more than the limit");
}

#[test]
fn key_longer_than_the_file() {
    let bytes = Bytes::header(3, 0, 1).raw_str(60_000, b"key").u32(0).u8(0);
    assert_refused(bytes, "metadata key: 60000 bytes of text do not fit");
}

#[test]
fn key_longer_than_the_limit() {
    let bytes = Bytes::header(3, 0, 1).str(&"k".repeat(70_000)).u32(0).u8(0);
    assert_refused(bytes, "more than the limit of 65535");
}

#[test]
fn key_that_is_not_utf8() {
    let bytes = Bytes::header(3, 0, 1).raw_str(2, b"\xC3\x28").u32(0).u8(0);
    assert_refused(bytes, "not UTF-8");
}

#[test]
fn string_length_that_overflows() {
    let bytes = Bytes::header(3, 0, 1)
        .str("key")
        .u32(8)
        .raw_str(u64::MAX, b"text");
    assert_refused(bytes, "metadata `key`");
}

#[test]
fn unknown_value_type() {
    let bytes = Bytes::header(3, 0, 1).str("key").u32(13).u8(0);
    assert_refused(bytes, "unknown value type 13");
}

#[test]
fn unknown_element_type() {
    let bytes = Bytes::header(3, 0, 1)
        .str("key")
        .u32(9)
        .u32(99)
        .u64(1)
        .u8(0);
    assert_refused(bytes, "unknown element type 99");
}

#[test]
fn array_longer_than_the_file() {
    for element_type in [0, 6, 7, 8, 9, 12] {
        let bytes = Bytes::header(3, 0, 1)
            .str("key")
            .u32(9)
            .u32(element_type)
            .u64(1 << 25)
            .u64(0);
        assert_refused(bytes, "array elements do not fit");
    }
}

#[test]
fn array_length_that_overflows() {
    let bytes = Bytes::header(3, 0, 1)
        .str("key")
        .u32(9)
        .u32(12)
        .u64(1 << 61);
    assert_refused(bytes, "more than the limit");
}

#[test]
fn arrays_nested_too_deep() {
    let mut bytes = Bytes::header(3, 0, 1).str("key").u32(9);
    for _ in 0..100_000 {
        bytes = bytes.u32(9).u64(1);
    }
    assert_refused(bytes, "nest deeper than 4");
}

#[test]
fn flag_that_is_neither_true_nor_false() {
    assert_refused(
        Bytes::header(3, 0, 1).str("key").u32(7).u8(2),
        "the flag is 2",
    );
    let array = Bytes::header(3, 0, 1)
        .str("key")
        .u32(9)
        .u32(7)
        .u64(2)
        .u8(1)
        .u8(0xFF);
    assert_refused(array, "the flag is 255");
}

#[test]
fn duplicate_key() {
    let pair = |bytes: Bytes| bytes.str("key").u32(0).u8(0);
    assert_refused(
        pair(pair(Bytes::header(3, 0, 2))),
        "metadata `key` appears twice",
    );
}

#[test]
fn duplicate_tensor() {
    let bytes = Bytes::header(3, 2, 0)
        .tensor("t", &[1], F32, 0)
        .tensor("t", &[1], F32, 32)
        .data(64);
    assert_refused(bytes, "tensor `t` appears twice");
}

#[test]
fn alignment_that_is_no_power_of_two() {
    for alignment in [0, 3, 48, 1 << 31] {
        let bytes = Bytes::header(3, 0, 1)
            .str("general.alignment")
            .u32(4)
            .u32(alignment);
        assert_refused(bytes, "`general.alignment`");
    }
}

#[test]
fn alignment_of_the_wrong_type() {
    let bytes = Bytes::header(3, 0, 1)
        .str("general.alignment")
        .u32(10)
        .u64(32);
    assert_refused(bytes, "`general.alignment`");
}

#[test]
fn too_many_dimensions() {
    let bytes = Bytes::header(3, 1, 0).tensor("t", &[1; 5], F32, 0).data(4);
    assert_refused(bytes, "5 dimensions");
}

#[test]
fn unknown_tensor_type() {
    // 4 was retired.
    for type_id in [4, 42, u32::MAX] {
        let bytes = Bytes::header(3, 1, 0).tensor("t", &[1], type_id, 0).data(4);
        assert_refused(bytes, "unknown tensor type");
    }
}

#[test]
fn rows_that_are_no_multiple_of_the_block() {
    let bytes = Bytes::header(3, 1, 0)
        .tensor("t", &[16, 2], Q4_0, 0)
        .data(18);
    assert_refused(bytes, "rows of 16 elements");
}

#[test]
fn shape_that_overflows() {
    let huge = (1 << 31) - 1;
    for dims in [vec![u64::MAX], vec![1 << 31], vec![huge, huge, huge]] {
        let bytes = Bytes::header(3, 1, 0).tensor("t", &dims, F32, 0).data(4);
        assert_refused(bytes, "too large");
    }
}

#[test]
fn zero_dimension_that_hides_an_overflow() {
    let huge = (1 << 31) - 1;
    let bytes = Bytes::header(3, 1, 0).tensor("t", &[huge, huge, huge, 0], F32, 0);
    assert_refused(bytes.data(4), "too large");
}

#[test]
fn size_in_bytes_that_overflows() {
    let huge = (1 << 31) - 1;
    let bytes = Bytes::header(3, 1, 0).tensor("t", &[huge, huge, 3], 28, 0);
    assert_refused(bytes.data(4), "size overflows");
}

#[test]
fn misaligned_offset() {
    let bytes = Bytes::header(3, 1, 0).tensor("t", &[1], F32, 4).data(64);
    assert_refused(bytes, "no multiple of the alignment");
}

#[test]
fn offset_beyond_the_end() {
    for offset in [32, 1 << 40, u64::MAX - 31] {
        let bytes = Bytes::header(3, 1, 0)
            .tensor("t", &[1], F32, offset)
            .data(4);
        assert_refused(bytes, "tensor `t`: 4 bytes");
    }
}

#[test]
fn data_shorter_than_the_shape() {
    let bytes = Bytes::header(3, 1, 0).tensor("t", &[9], F32, 0).data(32);
    assert_refused(bytes, "reach beyond the end");
}

#[test]
fn overlapping_tensors() {
    let bytes = Bytes::header(3, 2, 0)
        .tensor("first", &[16], F32, 0)
        .tensor("second", &[1], F32, 32)
        .data(64);
    assert_refused(bytes, "tensors `first` and `second` overlap");
}

#[test]
fn limits_are_the_callers() {
    let bytes = std::fs::read(fixture().join("blocks.gguf")).unwrap();
    for limits in [
        Limits::default().max_tensors(3),
        Limits::default().max_metadata(3),
        Limits::default().max_name_bytes(3),
        Limits::default().max_string_bytes(3),
        Limits::default().max_array_len(1),
        Limits::default().max_array_depth(1),
    ] {
        let refused = GgufFile::from_bytes(bytes.clone(), &limits);
        assert!(matches!(refused, Err(Error::Format { .. })), "{limits:?}");
    }
}

#[test]
fn paths_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.gguf");
    assert!(matches!(GgufFile::open(&missing), Err(Error::Io { path, .. }) if path == missing));
    assert!(matches!(
        GgufFile::open(folder.path()),
        Err(Error::Io { .. })
    ));
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    match GgufFile::open(&empty) {
        Err(Error::Format { what, .. }) => assert!(what.contains("empty.gguf")),
        other => panic!("{other:?}"),
    }
}
