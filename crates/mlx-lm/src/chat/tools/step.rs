//! What the readers of all formats have in common.

use std::fmt::Debug;

use super::parser::ToolCall;

/// What can be said about the beginning of the text that has not been sorted yet.
///
/// A reader may only decide what every continuation of the text would leave so. That is why the
/// result does not depend on how a stream is cut.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    More,
    /// Nothing before this mark appears.
    Wait(&'static str),
    /// So many bytes are what the model says.
    Text(usize),
    /// So many bytes are what the model thinks.
    Reasoning(usize),
    /// So many bytes are syntax around calls.
    Mark(usize),
    /// So many bytes are these calls.
    Calls(usize, Vec<ToolCall>),
}

/// The syntax of one family of models.
pub(super) trait Syntax: Debug + Send {
    /// Looks at the text that is left, which is never empty; `end` if no more follows, and then
    /// the answer is neither [`Step::More`] nor [`Step::Wait`].
    fn step(&mut self, text: &str, end: bool) -> Step;
}

/// What stands between two marks.
#[derive(Debug)]
pub(super) enum Body {
    Calls(Vec<ToolCall>),
    /// Could be the beginning of calls.
    Incomplete,
    Malformed,
}

impl From<Result<Vec<ToolCall>, Fault>> for Body {
    fn from(calls: Result<Vec<ToolCall>, Fault>) -> Self {
        match calls {
            Ok(calls) if calls.is_empty() => Self::Malformed,
            Ok(calls) => Self::Calls(calls),
            Err(Fault::Incomplete) => Self::Incomplete,
            Err(Fault::Malformed) => Self::Malformed,
        }
    }
}

/// Why text is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ends too early.
    Incomplete,
    /// No continuation would help.
    Malformed,
}

/// Passes over text up to the first of several marks: `Ok(n)` if the text begins with mark `n`.
pub(super) fn seek(text: &str, marks: &[&str], end: bool) -> Result<usize, Step> {
    let first = marks
        .iter()
        .enumerate()
        .filter_map(|(n, mark)| text.find(mark).map(|at| (at, n)))
        .min();
    match first {
        Some((0, n)) => Ok(n),
        Some((at, _)) => Err(Step::Text(at)),
        None if end => Err(Step::Text(text.len())),
        None => {
            let keep = marks
                .iter()
                .map(|mark| overlap(text, mark))
                .max()
                .unwrap_or(0);
            Err(match text.len() - keep {
                0 => Step::More,
                decided => Step::Text(decided),
            })
        }
    }
}

/// Length of the longest end of `text` that `mark` could begin with.
pub(super) fn overlap(text: &str, mark: &str) -> usize {
    let starts = mark.char_indices().map(|(at, _)| at).skip(1);
    starts
        .filter(|&at| mark.get(..at).is_some_and(|start| text.ends_with(start)))
        .max()
        .unwrap_or(0)
}

/// Whether `text` could still turn out to begin with `mark`.
pub(super) fn may_begin(text: &str, mark: &str) -> bool {
    text.len() < mark.len() && mark.starts_with(text)
}

/// Reads calls that stand between two marks, `text` beginning with the first.
///
/// The closing mark may also occur inside of an argument, so each occurrence is tried. At the end
/// of the text it may be missing, for many models are stopped at it. `begins` tells from the first
/// character whether it can be a call at all.
pub(super) fn enclosed(
    text: &str,
    end: bool,
    (open, close): (&str, &'static str),
    begins: impl Fn(char) -> bool,
    parse: impl Fn(&str) -> Body,
) -> Step {
    let Some(inner) = text.strip_prefix(open) else {
        return Step::Text(text.len().min(1));
    };
    match inner.trim_start().chars().next() {
        Some(first) if begins(first) => {}
        None if !end => return Step::More,
        _ => return Step::Text(open.len()),
    }
    for (at, mark) in inner.match_indices(close) {
        match parse(inner.get(..at).unwrap_or_default()) {
            Body::Calls(calls) => return Step::Calls(open.len() + at + mark.len(), calls),
            Body::Incomplete => {}
            Body::Malformed => return Step::Text(open.len()),
        }
    }
    if !end {
        return Step::Wait(close);
    }
    match parse(inner) {
        Body::Calls(calls) => Step::Calls(text.len(), calls),
        _ => Step::Text(open.len()),
    }
}

/// Whether a function can be called so.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'))
}
