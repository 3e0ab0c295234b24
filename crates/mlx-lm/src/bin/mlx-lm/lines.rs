//! Text and JSON lines from files.

use std::fs;
use std::path::Path;

use mlx_lm::cli::{Failure, read_stdin};
use serde_json::Value;

/// One line of a file and its number.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return read_stdin("the text");
    }
    let bytes = fs::read(path).map_err(|source| Failure::file("read", path, &source))?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            format!("{} is not UTF-8", path.display()),
            "convert it, for example with iconv",
        )
    })
}

/// The objects of a file with one on each line; empty lines are skipped.
pub(crate) fn read_records(path: &Path) -> Result<Vec<Record>, Failure> {
    let text = read_text(path)?;
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, text)| !text.trim().is_empty());
    lines
        .map(|(line, text)| match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => Ok(Record { line, value }),
            Ok(_) => Err(bad(path, line, "is not a JSON object")),
            Err(error) => Err(bad(path, line, &format!("is not JSON: {error}"))),
        })
        .collect()
}

pub(crate) fn bad(path: &Path, line: usize, what: &str) -> Failure {
    Failure::usage(
        format!("line {line} of {} {what}", path.display()),
        "each line is one JSON object; the command's --help shows which keys it has",
    )
}
