//! One message of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A message as templates see it: a mapping with `role`, usually `content`, and whatever else the
/// model's template knows, in the order given.
///
/// Content is a string or a list of parts such as `{"type": "text", "text": "…"}`. Other customary
/// keys are `tool_calls`, `tool_call_id`, `name` and `reasoning_content`.
///
/// ```
/// use mlx_lm::chat::Message;
/// let message = Message::assistant("Let me look.")
///     .with("tool_calls", serde_json::json!([{"name": "weather", "arguments": {"city": "Rome"}}]));
/// assert_eq!(message.role(), Some("assistant"));
/// assert_eq!(message.text(), Some("Let me look."));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message with a role and text or parts as content.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        Self(Map::new())
            .with("role", role.into())
            .with("content", content)
    }

    /// Instructions that hold for the whole conversation.
    #[must_use]
    pub fn system(content: impl Into<Value>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    #[must_use]
    pub fn user(content: impl Into<Value>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    #[must_use]
    pub fn assistant(content: impl Into<Value>) -> Self {
        Self::new("assistant", content)
    }

    /// The result of a tool call.
    #[must_use]
    pub fn tool(content: impl Into<Value>) -> Self {
        Self::new("tool", content)
    }

    /// Sets a key; a new one comes last.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Who speaks.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.get("role")?.as_str()
    }

    /// The content, if it is plain text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.get("content")?.as_str()
    }

    pub(super) fn map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl From<Map<String, Value>> for Message {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order_and_unknown_keys() {
        let json = r#"{"weight":1,"content":[{"type":"text","text":"hi"}],"role":"user","a":null}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert_eq!(message.role(), Some("user"));
        assert_eq!(message.text(), None);
    }
}
