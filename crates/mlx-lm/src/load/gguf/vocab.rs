//! The tokenizer in a file's metadata.

use mlx_core::io::gguf::{Metadata, Value};

use crate::Result;
use crate::tokenizer::GgufVocab;

const TEMPLATE: &str = "tokenizer.chat_template";

pub(super) fn read(metadata: &Metadata) -> Result<GgufVocab> {
    let id = |key: &str| metadata.get::<u32>(&format!("tokenizer.ggml.{key}"));
    let flag = |key: &str| metadata.get::<bool>(&format!("tokenizer.ggml.{key}"));
    let strings = |key: &str| {
        let list = metadata.get::<&[String]>(&format!("tokenizer.ggml.{key}"));
        list.map(|list| list.unwrap_or_default().to_vec())
    };
    let token_types = match metadata.value("tokenizer.ggml.token_type") {
        None => Vec::new(),
        Some(_) => metadata.i64s("tokenizer.ggml.token_type")?,
    };
    let named = metadata.iter().filter_map(|(key, value)| {
        match (key.strip_prefix(TEMPLATE)?.strip_prefix('.')?, value) {
            (name, Value::String(source)) => Some((name.to_owned(), source.clone())),
            _ => None,
        }
    });
    Ok(GgufVocab {
        architecture: metadata.str("general.architecture")?.to_owned(),
        model: metadata.str("tokenizer.ggml.model")?.to_owned(),
        pre: metadata
            .get::<&str>("tokenizer.ggml.pre")?
            .map(str::to_owned),
        tokens: metadata.strs("tokenizer.ggml.tokens")?.to_vec(),
        scores: metadata
            .get::<&[f32]>("tokenizer.ggml.scores")?
            .unwrap_or_default()
            .to_vec(),
        token_types: token_types
            .into_iter()
            .map(|kind| i32::try_from(kind).unwrap_or_default())
            .collect(),
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        more_eos: [id("eot_token_id")?, id("eom_token_id")?]
            .into_iter()
            .flatten()
            .collect(),
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        chat_template: metadata.get::<&str>(TEMPLATE)?.map(str::to_owned),
        named_chat_templates: named.collect(),
    })
}
