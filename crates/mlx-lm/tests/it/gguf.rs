//! GGUF files against the Hugging Face checkpoint of the same weights.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mlx_core::io::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, Value, quantize};
use mlx_core::{Array, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::chat::Message;
use mlx_lm::{GenerateOptions, Loader, load};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Outcome, config, distance, prose, row, shapes, weights, with, write};

type Arrays = HashMap<String, Array>;

/// A configuration whose rows are whole blocks of every type.
fn wide(model_type: &str) -> serde_json::Value {
    with(
        config(model_type),
        json!({ "hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1 }),
    )
}

/// What a converter calls the weight.
fn gguf_name(key: &str) -> String {
    let named = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    named
        .iter()
        .fold(key.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Row `i` of a stored matrix is row `source[i]` of the checkpoint's: Llama's
/// converter puts the rows that rotate together side by side.
fn stored_rows(key: &str, rows: usize, architecture: &str) -> Vec<usize> {
    let heads = match key.rsplit('.').nth(1) {
        Some("q_proj") if architecture == "llama" => 4,
        Some("k_proj") if architecture == "llama" => 2,
        _ => return (0..rows).collect(),
    };
    let head = rows / heads;
    let source = |row: usize| {
        let (start, pair, half) = (row / head * head, row % head / 2, row % 2);
        start + half * (head / 2) + pair
    };
    (0..rows).map(source).collect()
}

fn permuted(values: &[f32], columns: usize, order: &[usize]) -> Vec<f32> {
    order
        .iter()
        .flat_map(|&row| &values[row * columns..(row + 1) * columns])
        .copied()
        .collect()
}

fn metadata(
    architecture: &str,
    config: &serde_json::Value,
) -> Result<Metadata, Box<dyn std::error::Error>> {
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(prose().join("tokenizer.json"))?)?;
    let mut tokens = vec![String::new(); 4096];
    for (token, id) in tokenizer["model"]["vocab"]
        .as_object()
        .ok_or("no vocabulary")?
    {
        tokens[usize::try_from(id.as_u64().unwrap_or(0))?] = token.clone();
    }
    let pair = |merge: &serde_json::Value| match merge {
        serde_json::Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let merges: Vec<String> = tokenizer["model"]["merges"]
        .as_array()
        .ok_or("no merges")?
        .iter()
        .map(pair)
        .collect();
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", architecture);
    let mut number = |key: &str, field: &str| -> Outcome {
        let value = u32::try_from(config[field].as_u64().ok_or("not a number")?)?;
        metadata.insert(format!("{architecture}.{key}"), value);
        Ok(())
    };
    number("block_count", "num_hidden_layers")?;
    number("context_length", "max_position_embeddings")?;
    number("embedding_length", "hidden_size")?;
    number("feed_forward_length", "intermediate_size")?;
    number("attention.head_count", "num_attention_heads")?;
    number("attention.head_count_kv", "num_key_value_heads")?;
    number("attention.key_length", "head_dim")?;
    metadata.insert(
        format!("{architecture}.attention.layer_norm_rms_epsilon"),
        1e-5_f32,
    );
    metadata.insert(format!("{architecture}.rope.freq_base"), 10_000.0_f32);
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", Value::from(tokens));
    metadata.insert("tokenizer.ggml.merges", Value::from(merges));
    metadata.insert("tokenizer.ggml.eos_token_id", 0_u32);
    metadata.insert(
        "tokenizer.chat_template",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    );
    Ok(metadata)
}

/// Encoded rows. Types that the writer does not encode get random codes with
/// plausible scales.
fn encode(ggml_type: GgmlType, values: &[f32]) -> mlx_core::Result<Vec<u8>> {
    // Where half-precision scales lie in a block, and about 0.2 over the largest code.
    let (scale_fields, scale): (&[usize], u16) = match ggml_type {
        GgmlType::Q5_0 => (&[0], 0x2400),
        GgmlType::Q5_1 => (&[0, 2], 0x2400),
        GgmlType::Q2_K => (&[80, 82], 0x1800),
        GgmlType::Q3_K => (&[108], 0x1000),
        GgmlType::Q4_K | GgmlType::Q5_K => (&[0, 2], 0x0c00),
        GgmlType::Q6_K => (&[208], 0x0400),
        _ => return quantize(ggml_type, values),
    };
    let blocks = values.len() / ggml_type.block_len();
    let mut state = 1_u32;
    let mut bytes: Vec<u8> = (0..blocks * ggml_type.block_bytes())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect();
    for block in bytes.chunks_exact_mut(ggml_type.block_bytes()) {
        for &field in scale_fields {
            block[field..field + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    Ok(bytes)
}

/// Writes a GGUF file of these weights, matrices as `ggml_type`, and returns it
/// beside the values that it holds, under the checkpoint's names.
fn convert(
    architecture: &str,
    config: &serde_json::Value,
    arrays: &Arrays,
    ggml_type: GgmlType,
) -> Result<(TempDir, Arrays), Box<dyn std::error::Error>> {
    let mut writer = GgufWriter::new(metadata(architecture, config)?);
    for (key, array) in arrays {
        let shape: Vec<usize> = array
            .shape()
            .iter()
            .map(|&dim| usize::try_from(dim))
            .collect::<Result<_, _>>()?;
        let columns = shape.get(1).copied().unwrap_or(1);
        let values = permuted(
            &array.to_vec::<f32>()?,
            columns,
            &stored_rows(key, shape[0], architecture),
        );
        let ggml_type = if shape.len() == 1 {
            GgmlType::F32
        } else {
            ggml_type
        };
        writer.blocks(
            &gguf_name(key),
            &shape,
            ggml_type,
            encode(ggml_type, &values)?,
        )?;
    }
    let folder = TempDir::new()?;
    let path = folder.path().join("model.gguf");
    writer.save(&path)?;
    let file = GgufFile::open(&path)?;
    let mut stored = Arrays::new();
    for (key, array) in arrays {
        let rows = usize::try_from(array.shape()[0])?;
        let columns = array.size() / rows;
        let order = stored_rows(key, rows, architecture);
        let values = file.tensor(&gguf_name(key))?.dequantize()?;
        let mut original = vec![0.0; values.len()];
        for (row, &source) in order.iter().enumerate() {
            original[source * columns..(source + 1) * columns]
                .copy_from_slice(&values[row * columns..(row + 1) * columns]);
        }
        stored.insert(
            key.clone(),
            Array::from_slice::<f32>(&original, &array.shape())?,
        );
    }
    Ok((folder, stored))
}

fn logits(path: &Path) -> Result<Array, Box<dyn std::error::Error>> {
    let loaded = Loader::new(path).dtype(Dtype::Float32).load()?;
    let model = loaded.model();
    Ok(model.forward(
        &row(&[5, 900, 33, 2])?,
        &mut model.make_cache(&CacheOptions::default()),
    )?)
}

#[test]
fn every_architecture_equals_its_checkpoint() -> Outcome {
    for architecture in ["llama", "qwen2", "qwen3"] {
        for tied in [false, true] {
            let config = with(config(architecture), json!({ "tie_word_embeddings": tied }));
            let arrays = weights(&shapes(&config))?;
            let (folder, stored) = convert(architecture, &config, &arrays, GgmlType::F32)?;
            let checkpoint = write(&config, &stored)?;
            let error = distance(
                &logits(&folder.path().join("model.gguf"))?,
                &logits(checkpoint.path())?,
            )?;
            assert!(error < 1e-5, "{architecture}, tied {tied}: {error}");
        }
    }
    Ok(())
}

#[test]
fn every_quantisation_equals_its_dense_values() -> Outcome {
    use GgmlType::{BF16, F16, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let config = wide("llama");
    let arrays = weights(&shapes(&config))?;
    for (ggml_type, stays) in [
        (F16, false),
        (BF16, false),
        (Q4_0, true),
        (Q4_1, true),
        (Q5_0, true),
        (Q5_1, true),
        (Q8_0, true),
        (Q2_K, false),
        (Q3_K, false),
        (Q4_K, true),
        (Q5_K, true),
        (Q6_K, false),
    ] {
        let (folder, stored) = convert("llama", &config, &arrays, ggml_type)?;
        let path = folder.path().join("model.gguf");
        let dense = write(&config, &stored)?;
        let (found, expected) = (logits(&path)?, logits(dense.path())?);
        let error = distance(&found, &expected)?;
        assert!(error < 2e-2, "{ggml_type}: {error}");
        let loaded = Loader::new(&path).dtype(Dtype::Float32).load()?;
        let packed = loaded.size().dtypes.contains_key("uint32");
        assert_eq!(packed, stays, "{ggml_type}");
    }
    Ok(())
}

#[test]
fn half_precision_keeps_what_it_holds_exactly() -> Outcome {
    let config = wide("qwen2");
    let (folder, _) = convert(
        "qwen2",
        &config,
        &weights(&shapes(&config))?,
        GgmlType::Q8_0,
    )?;
    let loaded = Loader::new(folder.path().join("model.gguf"))
        .dtype(Dtype::Float16)
        .load()?;
    let dtypes = loaded.size().dtypes;
    assert_eq!(dtypes.keys().collect::<Vec<_>>(), ["float16", "uint32"]);
    let model = loaded.model();
    let logits = model.forward(&row(&[1])?, &mut model.make_cache(&CacheOptions::default()))?;
    assert_eq!(logits.dtype(), Dtype::Float16);
    Ok(())
}

#[test]
fn tokenizer_and_template_come_from_the_metadata() -> Outcome {
    let config = config("llama");
    let (folder, _) = convert("llama", &config, &weights(&shapes(&config))?, GgmlType::F32)?;
    let model = load(folder.path().join("model.gguf"))?;
    assert!(model.tokenizer().is_eos(0));
    let ids = model.tokenizer().encode("The captain looked", false)?;
    assert_eq!(model.tokenizer().decode(&ids, true)?, "The captain looked");
    let options = GenerateOptions::default().max_tokens(3);
    let chat = model
        .chat(&[Message::user("The captain looked")], &options)?
        .text()?;
    assert_eq!(
        chat,
        model.generate("The captain looked", &options)?.text()?
    );
    Ok(())
}

#[test]
fn what_cannot_be_read_is_named() -> Outcome {
    let config = config("llama");
    let arrays = weights(&shapes(&config))?;
    let fails = |change: &dyn Fn(&mut Metadata), part: &str| -> Outcome {
        let mut metadata = metadata("llama", &config)?;
        change(&mut metadata);
        let mut writer = GgufWriter::new(metadata);
        let embeddings = &arrays["model.embed_tokens.weight"];
        writer.floats(
            "token_embd.weight",
            &[4096, 32],
            GgmlType::F32,
            &embeddings.to_vec::<f32>()?,
        )?;
        writer.floats("surprise.weight", &[2], GgmlType::F32, &[1.0, 2.0])?;
        let folder = TempDir::new()?;
        let path = folder.path().join("model.gguf");
        writer.save(&path)?;
        let error = load(&path).err().ok_or("loaded")?;
        let text = format!(
            "{error}: {}",
            std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default()
        );
        assert!(text.contains(part), "`{part}` is not in `{text}`");
        Ok(())
    };
    fails(&|_| {}, "tensor `surprise.weight` is not known")?;
    fails(
        &|metadata| drop(metadata.insert("general.architecture", "abacus")),
        "unsupported model_type `abacus (gguf)`",
    )?;
    fails(
        &|metadata| drop(metadata.insert("llama.expert_count", 8_u32)),
        "llama.expert_used_count",
    )?;
    fails(
        &|metadata| drop(metadata.insert("llama.rope.dimension_count", 4_u32)),
        "4 of 8 dimensions",
    )?;
    fails(
        &|metadata| drop(metadata.insert("llama.rope.scaling.type", "spiral")),
        "`spiral` is not supported",
    )?;
    fails(
        &|metadata| drop(metadata.insert("llama.block_count", "many")),
        "llama.block_count",
    )
}

#[test]
fn truncated_files_are_refused() -> Outcome {
    let config = config("qwen3");
    let (folder, _) = convert("qwen3", &config, &weights(&shapes(&config))?, GgmlType::F16)?;
    let path = folder.path().join("model.gguf");
    let whole = fs::read(&path)?;
    for length in [0, 3, 24, whole.len() / 3, whole.len() - 64] {
        fs::write(&path, &whole[..length])?;
        let error = load(&path)
            .err()
            .ok_or_else(|| format!("{length} bytes loaded"))?;
        assert!(error.to_string().starts_with("load "), "{error}");
    }
    Ok(())
}

/// Writes the same tensors into several files, with `change` made to the metadata of each.
fn split(
    config: &serde_json::Value,
    arrays: &Arrays,
    change: impl Fn(u16, &mut Metadata),
) -> Result<TempDir, Box<dyn std::error::Error>> {
    let folder = TempDir::new()?;
    let mut keys: Vec<&String> = arrays.keys().collect();
    keys.sort();
    for part in 0..3_u16 {
        let mut metadata = match part {
            0 => metadata("qwen2", config)?,
            _ => Metadata::default(),
        };
        metadata.insert("split.no", part);
        metadata.insert("split.count", 3_u16);
        metadata.insert("split.tensors.count", i32::try_from(keys.len())?);
        change(part, &mut metadata);
        let mut writer = GgufWriter::new(metadata);
        for key in keys.iter().skip(usize::from(part)).step_by(3) {
            let array = &arrays[*key];
            let shape: Vec<usize> = array
                .shape()
                .iter()
                .map(|&dim| usize::try_from(dim))
                .collect::<Result<_, _>>()?;
            let values = array.to_vec::<f32>()?;
            writer.floats(&gguf_name(key), &shape, GgmlType::F32, &values)?;
        }
        let name = format!("tiny-{:05}-of-00003.gguf", part + 1);
        writer.save(folder.path().join(name))?;
    }
    Ok(folder)
}

#[test]
fn a_file_in_parts_is_one_model() -> Outcome {
    let config = config("qwen2");
    let arrays = weights(&shapes(&config))?;
    let folder = split(&config, &arrays, |_, _| {})?;
    let part = |number: u32| {
        folder
            .path()
            .join(format!("tiny-{number:05}-of-00003.gguf"))
    };
    let expected = logits(write(&config, &arrays)?.path())?;
    // Any part stands for all.
    for number in 1..=3 {
        assert!(distance(&logits(&part(number))?, &expected)? < 1e-5);
    }
    let loader = || Loader::new(part(1)).dtype(Dtype::Float32);
    let bytes = loader().load()?.size().bytes;
    assert_eq!(loader().estimate()?.weights, u64::try_from(bytes)?);
    fs::remove_file(part(2))?;
    let told = load(part(1)).err().ok_or("loaded")?;
    let told = std::error::Error::source(&told)
        .ok_or("no cause")?
        .to_string();
    assert_eq!(told, "`tiny-00002-of-00003.gguf` is missing");
    for (key, value) in [("split.no", 7_u16), ("split.count", 2)] {
        let folder = split(&config, &arrays, |part, metadata| {
            if part == 1 {
                metadata.insert(key, value);
            }
        })?;
        assert!(load(folder.path().join("tiny-00001-of-00003.gguf")).is_err());
    }
    Ok(())
}

#[test]
fn a_look_at_the_head_tells_what_loading_gives() -> Outcome {
    use GgmlType::{F16, Q4_K, Q6_K, Q8_0};
    let config = wide("llama");
    let arrays = weights(&shapes(&config))?;
    for ggml_type in [F16, Q4_K, Q6_K, Q8_0] {
        let (folder, _) = convert("llama", &config, &arrays, ggml_type)?;
        let path = folder.path().join("model.gguf");
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let loader = || Loader::new(&path).dtype(dtype);
            let size = loader().load()?.size();
            assert_eq!(loader().inspect()?.size(), size, "{ggml_type} {dtype}");
            let estimate = loader().estimate()?;
            assert_eq!(
                estimate.weights,
                u64::try_from(size.bytes)?,
                "{ggml_type} {dtype}"
            );
        }
    }
    Ok(())
}
