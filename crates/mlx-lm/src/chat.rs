//! Conversations and the templates that turn them into prompts.
//!
//! Templates are Jinja programs written for transformers. [`ChatTemplate`] runs them as
//! transformers does: block whitespace is trimmed, values print as Python prints them, strings and
//! mappings have Python's methods, and `tojson`, `raise_exception`, `strftime_now` and the
//! `{% generation %}` tag exist.
//!
//! Known differences, which no published template that we tried runs into: a list or mapping joined
//! to text with `~` prints its strings in double quotes, tuples print as lists, and `-a.b` must be
//! written `-(a.b)`.

mod environment;
mod json;
mod message;
mod options;
mod preprocess;
mod python;
mod reasoning;
mod strings;
mod template;
mod tools;

pub use message::Message;
pub use options::RenderOptions;
pub use reasoning::{ReasoningParser, ReasoningText};
pub use template::{ChatTemplate, ChatTemplates};
pub use tools::{OutputPart, ToolCall, ToolFormat, ToolParser};
