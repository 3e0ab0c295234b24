//! `[name(argument="value")]`.

use super::literal;
use super::step::{Body, Fault, Step, Syntax, enclosed, seek};

const OPEN: &str = "<|tool_call_start|>";
const CLOSE: &str = "<|tool_call_end|>";

#[derive(Debug, Default)]
pub(super) struct Pythonic {
    /// Whether anything but blanks has been seen; a list without marks stands at the beginning.
    spoken: bool,
}

impl Syntax for Pythonic {
    fn step(&mut self, text: &str, end: bool) -> Step {
        if !self.spoken {
            let blank = text.len() - text.trim_start().len();
            if blank > 0 {
                return Step::Text(blank);
            }
            if text.starts_with('[') {
                match literal::calls(text) {
                    Ok((length, calls)) if !calls.is_empty() => {
                        self.spoken = true;
                        return Step::Calls(length, calls);
                    }
                    Err(Fault::Incomplete) if !end => return Step::More,
                    _ => {}
                }
            }
        }
        let step = match seek(text, &[OPEN], end) {
            Err(step) => step,
            Ok(_) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| !first.is_whitespace(),
                body,
            ),
        };
        self.spoken |= !matches!(step, Step::More | Step::Wait(_));
        step
    }
}

fn body(text: &str) -> Body {
    let text = text.trim();
    match literal::calls(text) {
        Ok((length, calls)) if length == text.len() => Ok(calls).into(),
        Ok(_) => Body::Malformed,
        Err(fault) => Err(fault).into(),
    }
}
