//! `<tool_call>{"name": …, "arguments": …}</tool_call>`.

use super::json;
use super::step::{Step, Syntax, enclosed, seek};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
pub(super) struct Hermes;

impl Syntax for Hermes {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN], end) {
            Err(step) => step,
            Ok(_) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| matches!(first, '{' | '['),
                |body| json::parse(body.trim()).and_then(json::calls).into(),
            ),
        }
    }
}
