//! `<minimax:tool_call><invoke name="…"><parameter name="…">…`.

use super::invoke;
use super::schema::Schemas;
use super::step::{Step, Syntax, enclosed, seek};

const OPEN: &str = "<minimax:tool_call>";
const CLOSE: &str = "</minimax:tool_call>";

#[derive(Debug)]
pub(super) struct MiniMax(pub(super) Schemas);

impl Syntax for MiniMax {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN], end) {
            Err(step) => step,
            Ok(_) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| first == '<',
                |body| invoke::calls(body, "", &self.0).into(),
            ),
        }
    }
}
