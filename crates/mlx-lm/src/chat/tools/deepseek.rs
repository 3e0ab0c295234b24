//! The marks of DeepSeek V3, R1 and V3.1, and the XML of V3.2.

use super::invoke;
use super::json;
use super::parser::ToolCall;
use super::schema::Schemas;
use super::step::{Fault, Step, Syntax, enclosed, is_name, seek};

const BEGIN: &str = "<｜tool▁calls▁begin｜>";
const END: &str = "<｜tool▁calls▁end｜>";
const OPEN: &str = "<｜tool▁call▁begin｜>";
const CLOSE: &str = "<｜tool▁call▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const XML_OPEN: &str = "<｜DSML｜function_calls>";
const XML_CLOSE: &str = "</｜DSML｜function_calls>";

pub(super) const MARKS: &[&str] = &[BEGIN, END, OPEN, CLOSE, SEPARATOR, "｜DSML｜"];

#[derive(Debug)]
pub(super) struct DeepSeek(pub(super) Schemas);

impl Syntax for DeepSeek {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN, XML_OPEN, BEGIN, END], end) {
            Err(step) => step,
            Ok(0) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| !first.is_whitespace(),
                |body| call(body).map(|call| vec![call]).into(),
            ),
            Ok(1) => enclosed(
                text,
                end,
                (XML_OPEN, XML_CLOSE),
                |first| first == '<',
                |body| invoke::calls(body, "｜DSML｜", &self.0).into(),
            ),
            Ok(2) => Step::Mark(BEGIN.len()),
            Ok(_) => Step::Mark(END.len()),
        }
    }
}

/// `name<sep>{…}`, or `function<sep>name` and a fenced block of JSON.
fn call(body: &str) -> Result<ToolCall, Fault> {
    let (first, second) = body.split_once(SEPARATOR).ok_or(Fault::Incomplete)?;
    let (name, arguments) = match second.trim_start().starts_with('{') {
        false if first.trim() == "function" => {
            let (name, rest) = second.split_once('\n').ok_or(Fault::Incomplete)?;
            (name.trim(), unfenced(rest)?)
        }
        _ => (first.trim(), second),
    };
    if !is_name(name) {
        return Err(Fault::Malformed);
    }
    let arguments = match arguments.trim() {
        "" => None,
        text => Some(json::parse(text)?),
    };
    Ok(ToolCall::new(name, json::arguments(arguments)?))
}

/// The inside of a fenced block, or the text as it is.
fn unfenced(text: &str) -> Result<&str, Fault> {
    match text.trim_start().strip_prefix("```json") {
        Some(fenced) => match fenced.rsplit_once("```") {
            Some((inside, _)) => Ok(inside),
            None => Err(Fault::Incomplete),
        },
        None => Ok(text),
    }
}
