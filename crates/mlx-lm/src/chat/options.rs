//! What a template is told besides the messages.

use std::time::SystemTime;

use serde_json::{Map, Value};

/// Options of [`ChatTemplate::render`](super::ChatTemplate::render).
///
/// The default asks for an answer: it opens the assistant's turn.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct RenderOptions {
    /// Open the assistant's turn at the end. On by default.
    pub add_generation_prompt: bool,
    /// Leave the last message open, for the model to continue it.
    pub continue_final_message: bool,
    /// Tools as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval-augmented templates.
    pub documents: Option<Vec<Value>>,
    /// Name of the template, where the model has several.
    pub template: Option<String>,
    /// Further variables, for instance `enable_thinking`; they overrule special tokens.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` tells; the clock's by default.
    pub now: Option<SystemTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            documents: None,
            template: None,
            variables: Map::new(),
            now: None,
        }
    }
}

impl RenderOptions {
    /// Whether the assistant's turn is opened at the end.
    pub fn add_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }

    /// Leaves the last message open, which excludes a generation prompt.
    pub fn continue_final_message(mut self) -> Self {
        self.continue_final_message = true;
        self.add_generation_prompt = false;
        self
    }

    /// Offers tools, each a JSON schema.
    pub fn tools(mut self, tools: impl IntoIterator<Item = Value>) -> Self {
        self.tools = Some(tools.into_iter().collect());
        self
    }

    /// Adds documents, each a mapping with `title` and `text`.
    pub fn documents(mut self, documents: impl IntoIterator<Item = Value>) -> Self {
        self.documents = Some(documents.into_iter().collect());
        self
    }

    /// Chooses a template by name.
    pub fn template(mut self, name: impl Into<String>) -> Self {
        self.template = Some(name.into());
        self
    }

    /// Switches thinking on or off in templates that know `enable_thinking` or `thinking`.
    pub fn enable_thinking(self, enable: bool) -> Self {
        self.variable("enable_thinking", enable)
            .variable("thinking", enable)
    }

    /// Sets a further variable.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Fixes the time that `strftime_now` tells.
    pub fn now(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }
}
