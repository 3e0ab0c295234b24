//! Tool calls in what a model writes.
//!
//! Each family of models has its own syntax. [`ToolParser`] reads one of them from streamed text,
//! and [`ToolFormat::detect`] tells from a model's chat template which one that is.

mod deepseek;
mod format;
mod gemma;
mod glm;
mod harmony;
mod hermes;
mod invoke;
mod json;
mod kimi;
mod literal;
mod llama3;
mod minimax;
mod mistral;
mod parser;
mod pythonic;
mod qwen_xml;
mod schema;
mod step;

pub use format::ToolFormat;
pub use parser::{OutputPart, ToolCall, ToolParser};
