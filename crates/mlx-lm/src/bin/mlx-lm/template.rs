//! What the chat template is told.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use mlx_lm::chat::RenderOptions;
use mlx_lm::cli::Failure;
use serde_json::{Map, Value};

/// Arguments about the chat template.
#[derive(Debug, Args)]
pub(crate) struct TemplateArguments {
    /// Let the model think first, or not, where its template knows how
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_thinking: Option<bool>,
    /// Further variables of the chat template, as a JSON object
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    /// Name of the chat template, where the model has several
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// Tools to offer: a file with a JSON list of function schemas
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
}

impl TemplateArguments {
    pub(crate) fn tools(&self) -> Result<Option<Vec<Value>>, Failure> {
        let Some(path) = &self.tools else {
            return Ok(None);
        };
        let text =
            fs::read_to_string(path).map_err(|source| Failure::file("read", path, &source))?;
        let tools = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(
                format!("{}: {error}", path.display()),
                "give a JSON list of function schemas",
            )
        })?;
        Ok(Some(tools))
    }

    pub(crate) fn options(&self) -> Result<RenderOptions, Failure> {
        let mut options = RenderOptions::default();
        if let Some(config) = &self.chat_template_config {
            let variables: Map<String, Value> = serde_json::from_str(config).map_err(|error| {
                Failure::usage(
                    format!("--chat-template-config: {error}"),
                    "give a JSON object, such as '{\"enable_thinking\": false}'",
                )
            })?;
            for (name, value) in variables {
                options = options.variable(name, value);
            }
        }
        if let Some(enable) = self.enable_thinking {
            options = options.enable_thinking(enable);
        }
        if let Some(name) = &self.chat_template {
            options = options.template(name.as_str());
        }
        if let Some(tools) = self.tools()? {
            options = options.tools(tools);
        }
        Ok(options)
    }
}
