//! `[TOOL_CALLS]` and what Mistral's generations of models put behind it.

use super::json;
use super::parser::ToolCall;
use super::step::{Fault, Step, Syntax, is_name, seek};

const OPEN: &str = "[TOOL_CALLS]";
const ID: &str = "[CALL_ID]";
const ARGUMENTS: &str = "[ARGS]";

/// What is longer is no name.
const LONGEST_NAME: usize = 256;

#[derive(Debug)]
pub(super) struct Mistral;

impl Syntax for Mistral {
    fn step(&mut self, text: &str, end: bool) -> Step {
        if let Err(step) = seek(text, &[OPEN], end) {
            return step;
        }
        let inner = text.strip_prefix(OPEN).unwrap_or_default();
        match read(inner) {
            Ok((length, calls)) => Step::Calls(OPEN.len() + length, calls),
            Err(Fault::Incomplete) if !end => Step::More,
            Err(_) => Step::Text(OPEN.len()),
        }
    }
}

/// A list of calls, or a name with its arguments; and how long it is.
fn read(text: &str) -> Result<(usize, Vec<ToolCall>), Fault> {
    let body = text.trim_start();
    let blank = text.len() - body.len();
    if body.starts_with(['[', '{']) {
        let (length, value) = value(body)?;
        return Ok((blank + length, json::calls(value)?));
    }
    let length = body.find(['[', '{']).ok_or(match body.len() {
        length if length > LONGEST_NAME => Fault::Malformed,
        _ => Fault::Incomplete,
    })?;
    let (name, mut rest) = body.split_at(length);
    if name.len() > LONGEST_NAME || !is_name(name.trim()) {
        return Err(Fault::Malformed);
    }
    let mut id = None;
    if let Some(after) = rest.strip_prefix(ID) {
        let length = after.find('[').ok_or(Fault::Incomplete)?;
        let (call_id, after) = after.split_at(length);
        id = Some(call_id.trim().to_owned());
        rest = after;
    }
    rest = match rest.strip_prefix(ARGUMENTS) {
        Some(rest) => rest,
        None if rest.starts_with('{') => rest,
        None if ARGUMENTS.starts_with(rest) || ID.starts_with(rest) => {
            return Err(Fault::Incomplete);
        }
        None => return Err(Fault::Malformed),
    };
    let arguments = rest.trim_start();
    match arguments.chars().next() {
        None => return Err(Fault::Incomplete),
        Some('{') => {}
        Some(_) => return Err(Fault::Malformed),
    }
    let (length, value) = value(arguments)?;
    let call = ToolCall {
        id,
        ..ToolCall::new(name.trim(), value)
    };
    Ok((text.len() - arguments.len() + length, vec![call]))
}

fn value(text: &str) -> Result<(usize, serde_json::Value), Fault> {
    let length = json::extent(text).ok_or(Fault::Incomplete)?;
    // What is balanced and still no JSON will not become any.
    let value =
        json::parse(text.get(..length).unwrap_or_default()).map_err(|_| Fault::Malformed)?;
    Ok((length, value))
}
