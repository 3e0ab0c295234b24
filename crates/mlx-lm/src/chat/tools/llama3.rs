//! The formats of Llama 3: bare JSON, `<|python_tag|>` and `<function=…>`.

use super::json;
use super::literal;
use super::parser::ToolCall;
use super::step::{Body, Fault, Step, Syntax, enclosed, is_name, may_begin, seek};

const PYTHON: &str = "<|python_tag|>";
const FUNCTION: &str = "<function=";

#[derive(Debug, Default)]
pub(super) struct Llama3 {
    /// Whether anything but calls and blanks has been seen.
    spoken: bool,
    /// Whether a call has been seen.
    called: bool,
}

impl Syntax for Llama3 {
    fn step(&mut self, text: &str, end: bool) -> Step {
        if !self.spoken {
            let blank = text.len() - text.trim_start().len();
            if blank > 0 {
                return Step::Text(blank);
            }
            if self.called && text.starts_with([';', ',']) {
                return Step::Mark(1);
            }
            if text.starts_with('{') {
                return self.object(text, end);
            }
        }
        let step = match seek(text, &[PYTHON, FUNCTION], end) {
            Err(step) => step,
            Ok(0) => self.tagged(text, end),
            Ok(_) => enclosed(
                text,
                end,
                (FUNCTION, "</function>"),
                |first| !first.is_whitespace(),
                function,
            ),
        };
        match &step {
            Step::Text(_) => self.spoken = true,
            Step::Calls(..) => self.called = true,
            _ => {}
        }
        step
    }
}

impl Llama3 {
    /// A call, or some other object that the answer begins with.
    fn object(&mut self, text: &str, end: bool) -> Step {
        let length = match json::extent(text) {
            Some(length) => length,
            None if end => {
                self.spoken = true;
                return Step::Text(text.len());
            }
            None => return Step::Wait("}"),
        };
        let object = text.get(..length).unwrap_or(text);
        let has_arguments = |value: &serde_json::Value| {
            value.get("parameters").is_some() || value.get("arguments").is_some()
        };
        let parsed = json::parse(object)
            .ok()
            .filter(has_arguments)
            .and_then(|value| json::call(value).ok());
        match parsed {
            Some(call) => {
                self.called = true;
                Step::Calls(length, vec![call])
            }
            None => {
                self.spoken = true;
                Step::Text(length)
            }
        }
    }

    /// What follows `<|python_tag|>`: a JSON call, `tool.call(key=value)`, or code, which is text.
    fn tagged(&mut self, text: &str, end: bool) -> Step {
        let inner = text.strip_prefix(PYTHON).unwrap_or_default();
        let blank = inner.len() - inner.trim_start().len();
        let body = inner.trim_start();
        if body.is_empty() && !end {
            return Step::More;
        }
        if body.starts_with('{') {
            // The object is looked at in the next step.
            self.spoken = false;
            return Step::Mark(PYTHON.len() + blank);
        }
        match built_in(body) {
            Ok((length, call)) => Step::Calls(PYTHON.len() + blank + length, vec![call]),
            Err(Fault::Incomplete) if !end => Step::More,
            Err(_) => Step::Text(PYTHON.len()),
        }
    }
}

/// `brave_search.call(query="…")`.
fn built_in(text: &str) -> Result<(usize, ToolCall), Fault> {
    const CALL: &str = ".call(";
    let length = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .ok_or(Fault::Incomplete)?;
    let (name, rest) = text.split_at(length);
    if may_begin(rest, CALL) {
        return Err(Fault::Incomplete);
    }
    if name.is_empty() || !rest.starts_with(CALL) {
        return Err(Fault::Malformed);
    }
    // The reader of Python calls wants the name directly before the bracket.
    let whole = format!("{name}{}", rest.get(CALL.len() - 1..).unwrap_or_default());
    let (read, call) = literal::call(&whole)?;
    Ok((read + CALL.len() - 1, call))
}

/// `name>{…}`.
fn function(body: &str) -> Body {
    let parsed = || {
        let (name, arguments) = body.split_once('>').ok_or(Fault::Incomplete)?;
        if !is_name(name) {
            return Err(Fault::Malformed);
        }
        let arguments = json::arguments(Some(json::parse(arguments.trim())?))?;
        Ok(vec![ToolCall::new(name, arguments)])
    };
    parsed().into()
}
