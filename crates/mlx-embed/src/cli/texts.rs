//! Where texts come from: arguments, a file, or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, stdin};
use std::path::Path;

use mlx_lm::cli::Failure;

/// Texts, a window of them at a time, so that input may be endless.
pub(crate) enum Texts {
    Given(std::vec::IntoIter<String>),
    Lines {
        reader: Box<dyn BufRead>,
        /// For messages.
        from: String,
        line: usize,
    },
}

impl Texts {
    /// The arguments if there are any, else the lines of `file`, where `-` is
    /// standard input, else those of standard input unless that is a terminal.
    pub(crate) fn open(given: Vec<String>, file: Option<&Path>) -> Result<Self, Failure> {
        if !given.is_empty() {
            return Ok(Self::Given(given.into_iter()));
        }
        if let Some(path) = file.filter(|path| *path != Path::new("-")) {
            let failed = |source| Failure::file("read", path, &source);
            let file = File::open(path).map_err(failed)?;
            return Ok(Self::Lines {
                reader: Box::new(BufReader::new(file)),
                from: path.display().to_string(),
                line: 0,
            });
        }
        if file.is_none() && stdin().is_terminal() {
            return Err(Failure::usage(
                "there is no text",
                "give texts as arguments, with --file, or as lines on standard input",
            ));
        }
        Ok(Self::Lines {
            reader: Box::new(BufReader::new(stdin())),
            from: "standard input".to_owned(),
            line: 0,
        })
    }

    /// Up to `count` further texts; none at the end.
    pub(crate) fn next(&mut self, count: usize) -> Result<Vec<String>, Failure> {
        match self {
            Self::Given(texts) => Ok(texts.by_ref().take(count).collect()),
            Self::Lines { reader, from, line } => {
                let mut texts = Vec::new();
                while texts.len() < count {
                    *line += 1;
                    match read_line(reader.as_mut()) {
                        Ok(Some(text)) => texts.push(text),
                        Ok(None) => break,
                        Err(error) => return Err(failed(&error, from, *line)),
                    }
                }
                Ok(texts)
            }
        }
    }

    /// All further texts.
    pub(crate) fn rest(mut self) -> Result<Vec<String>, Failure> {
        self.next(usize::MAX)
    }
}

/// One line without its end.
fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if reader.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Some(text))
}

fn failed(error: &io::Error, from: &str, line: usize) -> Failure {
    if error.kind() == ErrorKind::InvalidData {
        return Failure::usage(
            format!("line {line} of {from} is not UTF-8"),
            "convert it, for example with iconv",
        );
    }
    Failure::new(
        format!("read the texts: {error}"),
        "check where the input comes from",
    )
}
