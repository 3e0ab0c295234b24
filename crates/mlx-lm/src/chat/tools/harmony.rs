//! Harmony, the message format of gpt-oss: every message has a header with a channel and perhaps a
//! recipient.

use super::json;
use super::parser::ToolCall;
use super::step::{Step, Syntax, is_name, seek};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", START, CHANNEL];

pub(super) const MARKS: &[&str] = &[
    START,
    CHANNEL,
    MESSAGE,
    "<|constrain|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
];

/// A header is a few words; what is longer is none.
const LONGEST_HEADER: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Harmony {
    place: Place,
}

#[derive(Debug, Default, Clone, PartialEq)]
enum Place {
    /// Before a header, or in text that has none.
    #[default]
    Outside,
    /// In a message to the user.
    Words,
    /// In a message to itself.
    Thoughts,
    /// In the arguments of a call.
    Arguments(String),
}

impl Syntax for Harmony {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match self.place.clone() {
            Place::Outside => self.outside(text, end),
            Place::Words => self.stream(text, end, Step::Text),
            Place::Thoughts => self.stream(text, end, Step::Reasoning),
            Place::Arguments(name) => self.arguments(text, end, &name),
        }
    }
}

impl Harmony {
    fn outside(&mut self, text: &str, end: bool) -> Step {
        let marks = [START, CHANNEL, "<|end|>", "<|return|>", "<|call|>"];
        match seek(text, &marks, end) {
            Err(step) => return step,
            Ok(0 | 1) => {}
            Ok(n) => return Step::Mark(marks.get(n).map_or(1, |mark| mark.len())),
        }
        match text.find(MESSAGE) {
            Some(at) if at <= LONGEST_HEADER => {
                self.place = place(text.get(..at).unwrap_or_default());
                Step::Mark(at + MESSAGE.len())
            }
            None if !end && text.len() <= LONGEST_HEADER + MESSAGE.len() => Step::More,
            _ => Step::Text(1),
        }
    }

    /// Text that is shown as it comes.
    fn stream(&mut self, text: &str, end: bool, kind: fn(usize) -> Step) -> Step {
        match seek(text, &ENDS, end) {
            Err(Step::Text(length)) => kind(length),
            Err(step) => step,
            Ok(n) => self.leave(n, text, end),
        }
    }

    fn arguments(&mut self, text: &str, end: bool, name: &str) -> Step {
        let first = ENDS.iter().filter_map(|mark| text.find(mark)).min();
        let length = match first {
            Some(0) => {
                let n = ENDS.iter().position(|mark| text.starts_with(mark));
                return self.leave(n.unwrap_or(0), text, end);
            }
            Some(at) => at,
            None if end => text.len(),
            None => return Step::More,
        };
        let body = text.get(..length).unwrap_or_default();
        match json::parse(body.trim()).and_then(|value| json::arguments(Some(value))) {
            Ok(arguments) => Step::Calls(length, vec![ToolCall::new(name, arguments)]),
            Err(_) => Step::Text(length),
        }
    }

    /// Ends a message; `text` begins with a mark.
    fn leave(&mut self, mark: usize, text: &str, end: bool) -> Step {
        self.place = Place::Outside;
        match ENDS.get(mark) {
            Some(&mark) if mark != START && mark != CHANNEL => Step::Mark(mark.len()),
            _ => self.outside(text, end),
        }
    }
}

/// What a header announces.
fn place(header: &str) -> Place {
    let recipient = header
        .split_once("to=")
        .and_then(|(_, rest)| rest.split(|c: char| c.is_whitespace() || c == '<').next());
    let name = recipient.map(|to| to.strip_prefix("functions.").unwrap_or(to));
    match name.filter(|name| is_name(name)) {
        Some(name) if name != "assistant" => Place::Arguments(name.to_owned()),
        _ if header.contains("<|channel|>analysis") => Place::Thoughts,
        _ => Place::Words,
    }
}
