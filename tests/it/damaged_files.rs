//! Checkpoints that are cut short or lie about themselves: `mlx-lm` says so in one line.

use std::fs;
use std::path::Path;

use mlx_lm::load;
use tempfile::TempDir;

use crate::support::{Outcome, copied, fails, fixture, program};

/// A small good checkpoint that a test may damage.
fn checkpoint() -> TempDir {
    copied(fixture("lm/llama/q4-bf16"))
}

#[track_caller]
fn refused(model: &Path, part: &str) {
    let output = program("mlx-lm")
        .args(["generate", "--prompt", "hi", "--model"])
        .arg(model)
        .output()
        .unwrap();
    fails(&output, 1, part);
}

#[test]
fn the_undamaged_checkpoint_loads() {
    assert!(load(checkpoint().path()).is_ok());
}

// JSON.

#[test]
fn files_that_are_not_json_are_named() -> Outcome {
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        for content in [
            &b""[..],
            b"{",
            b"not json",
            b"[1, 2]",
            b"\xff\xfe{}",
            b"null",
        ] {
            let folder = checkpoint();
            fs::write(folder.path().join(name), content)?;
            refused(folder.path(), name);
        }
    }
    Ok(())
}

#[test]
fn an_index_that_is_wrong_is_named() -> Outcome {
    let index = "model.safetensors.index.json";
    for content in [
        "",
        "{}",
        r#"{"weight_map": 7}"#,
        r#"{"weight_map": {}}"#,
        r#"{"weight_map": {"a": 7}}"#,
        r#"{"weight_map": {"a": "../model.safetensors"}}"#,
        r#"{"weight_map": {"a": "/etc/passwd"}}"#,
    ] {
        let folder = checkpoint();
        fs::write(folder.path().join(index), content)?;
        refused(folder.path(), index);
    }
    let folder = checkpoint();
    fs::write(
        folder.path().join(index),
        r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#,
    )?;
    refused(folder.path(), "model-00001-of-00001.safetensors");
    Ok(())
}

// Safetensors.

/// A safetensors file of this header and `data` zero bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = u64::try_from(header.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn safetensors_headers_that_lie_are_refused() -> Outcome {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let max = u64::MAX;
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("empty file", Vec::new()),
        ("less than a length", vec![1, 0, 0]),
        ("header of 2^64-1 bytes", max.to_le_bytes().to_vec()),
        ("header of 2^63 bytes", (1u64 << 63).to_le_bytes().to_vec()),
        (
            "header beyond the file",
            [&100u64.to_le_bytes()[..], b"{}"].concat(),
        ),
        ("header that is not JSON", safetensors("hello", 0)),
        (
            "header that is not UTF-8",
            [&2u64.to_le_bytes()[..], b"\xff\xff"].concat(),
        ),
        ("header that is a list", safetensors("[]", 0)),
        ("tensor that is a number", safetensors(r#"{"a":1}"#, 0)),
        (
            "unknown dtype",
            safetensors(&tensor("F3", "[1]", "[0,4]"), 4),
        ),
        (
            "negative size",
            safetensors(&tensor("F32", "[-1]", "[0,4]"), 4),
        ),
        (
            "size of 2^64",
            safetensors(&tensor("F32", "[18446744073709551616]", "[0,4]"), 4),
        ),
        (
            "sizes whose product wraps",
            safetensors(&tensor("F32", "[4294967296,4294967296]", "[0,0]"), 0),
        ),
        (
            "bytes that do not match the shape",
            safetensors(&tensor("F32", "[2]", "[0,4]"), 4),
        ),
        (
            "end before start",
            safetensors(&tensor("F32", "[1]", "[4,0]"), 4),
        ),
        (
            "data beyond the file",
            safetensors(&tensor("F32", "[1024]", "[0,4096]"), 4),
        ),
        (
            "offsets near 2^64",
            safetensors(&tensor("F32", "[1]", &format!("[{},{max}]", max - 4)), 4),
        ),
        (
            "gap before the data",
            safetensors(&tensor("F32", "[1]", "[4,8]"), 8),
        ),
        (
            "bytes that nobody owns",
            safetensors(&tensor("F32", "[1]", "[0,4]"), 400),
        ),
        (
            "tensors on top of each other",
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        (
            "lists nested deep",
            safetensors(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0),
        ),
    ];
    for (what, bytes) in files {
        let folder = checkpoint();
        fs::write(folder.path().join("model.safetensors"), bytes)?;
        assert!(load(folder.path()).is_err(), "{what} loaded");
        refused(folder.path(), "model.safetensors");
    }
    Ok(())
}

#[test]
fn safetensors_cut_short_anywhere_are_refused() -> Outcome {
    let folder = checkpoint();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path)?;
    for part in 0..40 {
        let length = whole.len() * part / 40;
        fs::write(&path, &whole[..length])?;
        assert!(
            load(folder.path()).is_err(),
            "{length} of {} bytes loaded",
            whole.len()
        );
    }
    refused(folder.path(), "model.safetensors");
    Ok(())
}

// GGUF.

/// Writes GGUF pieces, true or not.
#[derive(Default)]
struct Gguf(Vec<u8>);

impl Gguf {
    fn header(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF\x03\0\0\0".to_vec()).u64(tensors).u64(keys)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(u64::try_from(text.len()).unwrap())
            .bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Self {
        let this = self.text(name).u32(u32::try_from(sizes.len()).unwrap());
        sizes
            .iter()
            .fold(this, |this, size| this.u64(*size))
            .u32(kind)
            .u64(offset)
    }
}

#[test]
fn gguf_headers_that_lie_are_refused() -> Outcome {
    const TEXT: u32 = 8;
    const LIST: u32 = 9;
    let max = u64::MAX;
    let one_tensor = || Gguf::header(1, 0);
    let nested = (0..100_000).fold(Gguf::header(0, 1).text("a").u32(LIST), |this, _| {
        this.u32(LIST).u64(1)
    });
    let files: Vec<(&str, Gguf)> = vec![
        ("empty file", Gguf::default()),
        ("half a magic", Gguf(b"GG".to_vec())),
        ("another magic", Gguf(b"GGML".to_vec()).u32(3).u64(0).u64(0)),
        ("version 99", Gguf(b"GGUF".to_vec()).u32(99).u64(0).u64(0)),
        (
            "version of the other byte order",
            Gguf(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0),
        ),
        ("nothing after the magic", Gguf(b"GGUF".to_vec())),
        ("2^64-1 tensors", Gguf::header(max, 0)),
        ("2^64-1 keys", Gguf::header(0, max)),
        ("key of 2^64-1 bytes", Gguf::header(0, 1).u64(max)),
        (
            "key that is not UTF-8",
            Gguf::header(0, 1).u64(2).bytes(b"\xff\xff").u32(4).u32(1),
        ),
        (
            "value of an unknown kind",
            Gguf::header(0, 1).text("a").u32(99),
        ),
        (
            "truth value of 7",
            Gguf::header(0, 1).text("a").u32(7).bytes(&[7]),
        ),
        (
            "text of 2^63 bytes",
            Gguf::header(0, 1).text("a").u32(TEXT).u64(1 << 63),
        ),
        (
            "list of 2^64-1 texts",
            Gguf::header(0, 1).text("a").u32(LIST).u32(TEXT).u64(max),
        ),
        (
            "list of 2^62 numbers",
            Gguf::header(0, 1).text("a").u32(LIST).u32(4).u64(1 << 62),
        ),
        ("lists nested deep", nested),
        (
            "alignment of 0",
            Gguf::header(0, 1).text("general.alignment").u32(4).u32(0),
        ),
        (
            "alignment of 3",
            Gguf::header(0, 1).text("general.alignment").u32(4).u32(3),
        ),
        (
            "tensor of 200 sizes",
            one_tensor().tensor("a", &[1; 200], 0, 0),
        ),
        (
            "sizes whose product wraps",
            one_tensor().tensor("a", &[1 << 32, 1 << 32], 0, 0),
        ),
        ("size of 2^64-1", one_tensor().tensor("a", &[max], 0, 0)),
        (
            "tensor of an unknown type",
            one_tensor().tensor("a", &[32], 4711, 0).bytes(&[0; 256]),
        ),
        (
            "offset of 2^64-32",
            one_tensor().tensor("a", &[8], 0, max - 31).bytes(&[0; 256]),
        ),
        (
            "offset off its alignment",
            one_tensor().tensor("a", &[8], 0, 5).bytes(&[0; 256]),
        ),
        (
            "data beyond the file",
            one_tensor().tensor("a", &[1024], 0, 0).bytes(&[0; 256]),
        ),
        (
            "half a block",
            one_tensor().tensor("a", &[16], 2, 0).bytes(&[0; 256]),
        ),
        (
            "two tensors of one name",
            Gguf::header(2, 0)
                .tensor("a", &[8], 0, 0)
                .tensor("a", &[8], 0, 32)
                .bytes(&[0; 256]),
        ),
        ("no architecture", Gguf::header(0, 0).bytes(&[0; 64])),
        (
            "an unknown architecture",
            Gguf::header(0, 1)
                .text("general.architecture")
                .u32(TEXT)
                .text("abacus")
                .bytes(&[0; 64]),
        ),
        (
            "an architecture without its sizes",
            Gguf::header(0, 1)
                .text("general.architecture")
                .u32(TEXT)
                .text("llama")
                .bytes(&[0; 64]),
        ),
    ];
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    for (what, file) in files {
        fs::write(&path, &file.0)?;
        assert!(load(&path).is_err(), "{what} loaded");
        refused(&path, "model.gguf");
    }
    Ok(())
}
