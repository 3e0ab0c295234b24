//! The tokenizer files of a Hugging Face model folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::error::{Result, TextError};
use super::special::{SpecialTokens, token_text};

/// What the configuration files beside `tokenizer.json` say.
#[derive(Debug, Default)]
pub(super) struct FolderConfig {
    pub(super) special: SpecialTokens,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) added_tokens: Vec<(u32, AddedToken)>,
    pub(super) additional_special: Vec<String>,
    pub(super) templates: BTreeMap<String, String>,
}

impl FolderConfig {
    /// Reads every configuration file that exists; later ones win, as in transformers.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut config = Self::default();
        if let Some(map) = read_object(&folder.join("special_tokens_map.json"))? {
            config.special.read(&map);
            config.read_additional(&map);
        }
        if let Some(map) = read_object(&folder.join("tokenizer_config.json"))? {
            // The map file is the older of the two; what it says again must not appear twice.
            config
                .special
                .extra
                .retain(|(name, _)| !map.contains_key(name));
            config.special.read(&map);
            config.read_additional(&map);
            config.read_added_tokens(&map)?;
            config.add_bos = map.get("add_bos_token").and_then(Value::as_bool);
            config.add_eos = map.get("add_eos_token").and_then(Value::as_bool);
            config.read_templates(map.get("chat_template"), "tokenizer_config.json")?;
        }
        if let Some(map) = read_object(&folder.join("chat_template.json"))? {
            config.read_templates(map.get("chat_template"), "chat_template.json")?;
        }
        config.read_template_files(folder)?;
        Ok(config)
    }

    fn read_additional(&mut self, map: &Map<String, Value>) {
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            match map.get(key) {
                Some(Value::Array(tokens)) => {
                    self.additional_special
                        .extend(tokens.iter().filter_map(token_text));
                }
                // Multimodal checkpoints name theirs: `{"image_token": "<image>"}`.
                Some(Value::Object(tokens)) => {
                    self.special.read(tokens);
                    self.additional_special
                        .extend(tokens.values().filter_map(token_text));
                }
                _ => {}
            }
        }
    }

    fn read_added_tokens(&mut self, map: &Map<String, Value>) -> Result<()> {
        let Some(tokens) = map.get("added_tokens_decoder").and_then(Value::as_object) else {
            return Ok(());
        };
        for (id, token) in tokens {
            let bad = |message: &str| {
                TextError::format(
                    "tokenizer_config.json",
                    format!("added_tokens_decoder `{id}`: {message}"),
                )
            };
            let id = id.parse().map_err(|_| bad("the key is not a token id"))?;
            let content = token_text(token).ok_or_else(|| bad("no content"))?;
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken::from(content, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            self.added_tokens.push((id, token));
        }
        self.added_tokens.sort_by_key(|(id, _)| *id);
        Ok(())
    }

    /// A template is a string, or a list of `{"name", "template"}`.
    fn read_templates(&mut self, value: Option<&Value>, file: &str) -> Result<()> {
        match value {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => {
                self.templates.insert("default".to_owned(), source.clone());
            }
            Some(Value::Array(list)) => {
                for entry in list {
                    let field = |name| entry.get(name).and_then(Value::as_str);
                    let (Some(name), Some(source)) = (field("name"), field("template")) else {
                        return Err(TextError::format(
                            file,
                            "a named chat_template needs the strings `name` and `template`",
                        ));
                    };
                    self.templates.insert(name.to_owned(), source.to_owned());
                }
            }
            Some(_) => {
                return Err(TextError::format(
                    file,
                    "chat_template is neither a string nor a list",
                ));
            }
        }
        Ok(())
    }

    /// `chat_template.jinja` and `additional_chat_templates/<name>.jinja`.
    fn read_template_files(&mut self, folder: &Path) -> Result<()> {
        if let Some(source) = read_optional(&folder.join("chat_template.jinja"))? {
            self.templates.insert("default".to_owned(), source);
        }
        let extra = folder.join("additional_chat_templates");
        if !extra.is_dir() {
            return Ok(());
        }
        let io = |source| TextError::Io {
            path: extra.clone(),
            source,
        };
        for entry in fs::read_dir(&extra).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "jinja")
            {
                continue;
            }
            if let (Some(name), Some(source)) = (
                path.file_stem().and_then(|name| name.to_str()),
                read_optional(&path)?,
            ) {
                self.templates.insert(name.to_owned(), source);
            }
        }
        Ok(())
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_optional(path)? else {
        return Ok(None);
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(TextError::format(
            path.display().to_string(),
            "not a JSON object",
        )),
        Err(error) => Err(TextError::format(path.display().to_string(), error)),
    }
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jinja_file_wins_and_named_templates_are_collected() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}],
                "add_bos_token": true, "bos_token": {"content": "<s>"}}"#,
        );
        write("chat_template.jinja", "C");
        write("additional_chat_templates/tool_use.jinja", "D");
        let config = FolderConfig::read(folder.path()).unwrap();
        let templates: Vec<_> = config
            .templates
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            templates,
            [("default", "C"), ("rag", "B"), ("tool_use", "D")]
        );
        assert_eq!(config.add_bos, Some(true));
        assert_eq!(config.special.bos.as_deref(), Some("<s>"));
    }

    #[test]
    fn broken_configuration_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
        let error = FolderConfig::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}
