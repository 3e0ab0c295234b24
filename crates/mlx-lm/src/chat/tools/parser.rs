//! Sorting streamed text into words and calls.

use std::fmt;

use serde_json::Value;

use super::format::ToolFormat;
use super::schema::Schemas;
use super::step::{Step, Syntax};

/// A call of a tool that the model asks for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolCall {
    /// The call's own name, where the format has one.
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// What it is called with: an object.
    pub arguments: Value,
    /// The text that the call was read from; empty for the further calls of one list.
    pub source: String,
}

impl ToolCall {
    pub(super) fn new(name: impl Into<String>, arguments: Value) -> Self {
        Self {
            id: None,
            name: name.into(),
            arguments,
            source: String::new(),
        }
    }

    /// The entry for `tool_calls` of an assistant's message, as chat templates expect it.
    #[must_use]
    pub fn to_message_entry(&self) -> Value {
        let mut entry = serde_json::json!({
            "type": "function",
            "function": { "name": self.name, "arguments": self.arguments },
        });
        if let (Some(id), Some(map)) = (&self.id, entry.as_object_mut()) {
            map.insert("id".to_owned(), Value::from(id.as_str()));
        }
        entry
    }
}

/// A piece of a model's output. The pieces put together, a call by its source, are the output.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum OutputPart {
    /// What the model says.
    Text(String),
    /// What the model thinks, where the format itself marks that (Harmony).
    Reasoning(String),
    /// A complete call.
    Call(ToolCall),
    /// Syntax around calls that nobody needs to see.
    Mark(String),
}

impl OutputPart {
    /// The text that the part was read from.
    #[must_use]
    pub fn source(&self) -> &str {
        match self {
            Self::Text(text) | Self::Reasoning(text) | Self::Mark(text) => text,
            Self::Call(call) => &call.source,
        }
    }
}

/// Finds tool calls in streamed text.
///
/// Text that could belong to a call is held back until that is decided. What does not read as a
/// call is text: nothing is lost, and nothing fails. How the stream is cut makes no difference.
///
/// ```
/// use mlx_lm::chat::{OutputPart, ToolFormat, ToolParser};
/// let mut parser = ToolParser::new(ToolFormat::Hermes, &[]);
/// let mut parts = parser.push("Let me see. <tool_c");
/// parts.extend(parser.push("all>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}"));
/// parts.extend(parser.push("</tool_call>"));
/// parts.extend(parser.finish());
/// assert_eq!(parts[0], OutputPart::Text("Let me see. ".to_owned()));
/// let OutputPart::Call(call) = &parts[1] else { panic!() };
/// assert_eq!((call.name.as_str(), &call.arguments["city"]), ("weather", &"Rome".into()));
/// ```
pub struct ToolParser {
    format: ToolFormat,
    syntax: Box<dyn Syntax>,
    held: String,
    /// Nothing can be decided before this appears behind so many bytes.
    wait: Option<(&'static str, usize)>,
}

impl fmt::Debug for ToolParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolParser")
            .field("format", &self.format)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl ToolParser {
    /// A parser for one format.
    ///
    /// `tools` are the JSON schemas that the template was given. Formats that write arguments
    /// without quotes need them to tell `"5"` from `5`.
    #[must_use]
    pub fn new(format: ToolFormat, tools: &[Value]) -> Self {
        Self {
            format,
            syntax: format.syntax(Schemas::new(tools)),
            held: String::new(),
            wait: None,
        }
    }

    /// The format that is read.
    #[must_use]
    pub fn format(&self) -> ToolFormat {
        self.format
    }

    /// Takes new text and returns what is decided.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        self.held.push_str(text);
        if let Some((mark, searched)) = self.wait {
            let from = (0..=searched.saturating_sub(mark.len()))
                .rev()
                .find(|&at| self.held.is_char_boundary(at))
                .unwrap_or(0);
            if !self
                .held
                .get(from..)
                .is_some_and(|rest| rest.contains(mark))
            {
                self.wait = Some((mark, self.held.len()));
                return Vec::new();
            }
            self.wait = None;
        }
        self.sort(false)
    }

    /// Sorts what was held back, now that no more text comes.
    pub fn finish(&mut self) -> Vec<OutputPart> {
        self.wait = None;
        self.sort(true)
    }

    fn sort(&mut self, end: bool) -> Vec<OutputPart> {
        let mut parts: Vec<OutputPart> = Vec::new();
        let mut at = 0;
        loop {
            let rest = self.held.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let step = self.syntax.step(rest, end);
            let take = |length: usize| {
                // A reader that does not move on would never end.
                let mut length = length.clamp(1, rest.len());
                while !rest.is_char_boundary(length) {
                    length += 1;
                }
                rest.get(..length).unwrap_or(rest)
            };
            match step {
                Step::More | Step::Wait(_) if end => {
                    let piece = take(rest.len());
                    at += piece.len();
                    add(&mut parts, OutputPart::Text(piece.to_owned()));
                }
                Step::More => break,
                Step::Wait(mark) => {
                    self.wait = Some((mark, self.held.len() - at));
                    break;
                }
                Step::Text(length) => {
                    let piece = take(length);
                    at += piece.len();
                    add(&mut parts, OutputPart::Text(piece.to_owned()));
                }
                Step::Reasoning(length) => {
                    let piece = take(length);
                    at += piece.len();
                    add(&mut parts, OutputPart::Reasoning(piece.to_owned()));
                }
                Step::Mark(length) => {
                    let piece = take(length);
                    at += piece.len();
                    add(&mut parts, OutputPart::Mark(piece.to_owned()));
                }
                Step::Calls(length, calls) => {
                    let piece = take(length);
                    at += piece.len();
                    let mut source = piece.to_owned();
                    for mut call in calls {
                        call.source = std::mem::take(&mut source);
                        parts.push(OutputPart::Call(call));
                    }
                    if !source.is_empty() {
                        add(&mut parts, OutputPart::Mark(source));
                    }
                }
            }
        }
        self.held.drain(..at);
        parts
    }
}

/// Appends a part, to the last one if that is of its kind.
fn add(parts: &mut Vec<OutputPart>, part: OutputPart) {
    match (parts.last_mut(), &part) {
        (Some(OutputPart::Text(last)), OutputPart::Text(new))
        | (Some(OutputPart::Reasoning(last)), OutputPart::Reasoning(new))
        | (Some(OutputPart::Mark(last)), OutputPart::Mark(new)) => last.push_str(new),
        _ => parts.push(part),
    }
}
