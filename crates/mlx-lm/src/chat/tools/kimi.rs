//! `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.

use super::json;
use super::parser::ToolCall;
use super::step::{Fault, Step, Syntax, enclosed, is_name, seek};

const BEGIN: &str = "<|tool_calls_section_begin|>";
const END: &str = "<|tool_calls_section_end|>";
const OPEN: &str = "<|tool_call_begin|>";
const ARGUMENTS: &str = "<|tool_call_argument_begin|>";
const CLOSE: &str = "<|tool_call_end|>";

pub(super) const MARKS: &[&str] = &[BEGIN, END, OPEN, ARGUMENTS, CLOSE];

#[derive(Debug)]
pub(super) struct Kimi;

impl Syntax for Kimi {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN, BEGIN, END], end) {
            Err(step) => step,
            Ok(0) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| !first.is_whitespace(),
                |body| call(body).map(|call| vec![call]).into(),
            ),
            Ok(1) => Step::Mark(BEGIN.len()),
            Ok(_) => Step::Mark(END.len()),
        }
    }
}

fn call(body: &str) -> Result<ToolCall, Fault> {
    let (id, arguments) = body.split_once(ARGUMENTS).ok_or(Fault::Incomplete)?;
    let id = id.trim();
    let name = id.strip_prefix("functions.").unwrap_or(id);
    let name = match name.rsplit_once(':') {
        Some((name, number)) if number.chars().all(|c| c.is_ascii_digit()) => name,
        _ => name,
    };
    if !is_name(name) {
        return Err(Fault::Malformed);
    }
    let arguments = match arguments.trim() {
        "" => None,
        text => Some(json::parse(text)?),
    };
    Ok(ToolCall {
        id: Some(id.to_owned()),
        ..ToolCall::new(name, json::arguments(arguments)?)
    })
}
