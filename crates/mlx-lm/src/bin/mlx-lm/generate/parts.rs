//! An answer taken apart.

use mlx_lm::LoadedModel;
use mlx_lm::chat::{OutputPart, ReasoningParser, ToolFormat, ToolParser};
use mlx_lm::cli::Failure;
use serde_json::{Map, Value, json};

/// What of an answer is thought, what is said, and which tools it calls.
pub(super) fn parts(
    model: &LoadedModel,
    prompt: &str,
    tokens: &[u32],
    tools: &[Value],
) -> Result<Map<String, Value>, Failure> {
    let tokenizer = model.tokenizer();
    let templates = tokenizer.chat_templates();
    let sources: Vec<&str> = templates
        .names()
        .filter_map(|name| templates.source(name))
        .collect();
    let source = sources.join("\n");
    let mut thoughts = ReasoningParser::detect(&source, prompt);
    let format = ToolFormat::detect(&source, |token| tokenizer.token_to_id(token).is_some());
    let mut marks: Vec<&str> = format.map(ToolFormat::marks).unwrap_or_default().to_vec();
    let thought_marks = thoughts
        .as_ref()
        .map(|parser| parser.marks().map(str::to_owned));
    marks.extend(thought_marks.iter().flatten().map(String::as_str));
    let mut detokenizer = tokenizer.detokenizer_showing(marks);
    let mut text = String::new();
    for &token in tokens.iter().filter(|&&token| !tokenizer.is_eos(token)) {
        text.push_str(&detokenizer.push(token)?);
    }
    text.push_str(&detokenizer.finish()?);
    let (mut reasoning, mut content) = (String::new(), text);
    if let Some(parser) = &mut thoughts {
        let sorted = [parser.push(&content), parser.finish()];
        content.clear();
        for part in sorted {
            reasoning.push_str(&part.reasoning);
            content.push_str(&part.content);
        }
    }
    let mut calls = Vec::new();
    if let Some(format) = format {
        let mut parser = ToolParser::new(format, tools);
        let found = [parser.push(&content), parser.finish()].concat();
        content.clear();
        for part in found {
            match part {
                OutputPart::Text(text) => content.push_str(&text),
                OutputPart::Reasoning(text) => reasoning.push_str(&text),
                OutputPart::Call(call) => calls.push(call.to_message_entry()),
                _ => {}
            }
        }
    }
    let mut parts = Map::new();
    parts.insert("content".to_owned(), json!(content.trim()));
    if !reasoning.trim().is_empty() {
        parts.insert("reasoning_content".to_owned(), json!(reasoning.trim()));
    }
    if !calls.is_empty() {
        parts.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(parts)
}
