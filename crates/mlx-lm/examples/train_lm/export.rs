//! A folder as Hugging Face lays it out.

use std::{fs, path::Path};

use mlx_core::Dtype;
use mlx_lm::registry::ConfigMap;
use mlx_nn::{save_weights, set_dtype};
use serde_json::json;

use crate::{Result, model::Model};

pub(crate) fn folder(
    folder: &Path,
    model: &mut Model,
    config: &ConfigMap,
    tokenizer: &Path,
    dtype: Dtype,
) -> Result<()> {
    fs::create_dir_all(folder)?;
    set_dtype(model, dtype)?;
    let metadata = [("format".to_owned(), "mlx".to_owned())].into();
    save_weights(model, folder.join("model.safetensors"), &metadata)?;
    let mut config = config.clone();
    config.insert("torch_dtype".to_owned(), json!(dtype.to_string()));
    let write = |name: &str, value: &serde_json::Value| -> Result<()> {
        fs::write(
            folder.join(name),
            serde_json::to_string_pretty(value)? + "\n",
        )?;
        Ok(())
    };
    write("config.json", &serde_json::Value::Object(config))?;
    write(
        "generation_config.json",
        &json!({"eos_token_id": 0, "do_sample": true, "temperature": 0.8, "top_p": 0.95}),
    )?;
    write(
        "tokenizer_config.json",
        &json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}),
    )?;
    fs::copy(tokenizer, folder.join("tokenizer.json"))?;
    Ok(())
}
