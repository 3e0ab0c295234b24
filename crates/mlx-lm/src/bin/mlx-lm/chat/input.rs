//! Messages from a terminal, with editing and history, or from a pipe.

use std::io::{BufRead, IsTerminal, stdin};
use std::path::PathBuf;

use mlx_lm::cli::Failure;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

const PROMPT: &str = ">>> ";
const CONTINUED: &str = "... ";
/// Lines between two of these are one message.
const QUOTES: &str = "\"\"\"";
const HISTORY: usize = 1000;

/// What came.
#[derive(Debug)]
pub(super) enum Line {
    Message(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    End,
}

/// Where messages come from.
pub(super) enum Input {
    Terminal {
        editor: Box<Editor<(), FileHistory>>,
        history: Option<PathBuf>,
    },
    Pipe,
}

impl Input {
    pub(super) fn new() -> Self {
        if !stdin().is_terminal() {
            return Self::Pipe;
        }
        let config = Config::builder().max_history_size(HISTORY);
        let config = config.map(|config| config.auto_add_history(false).build());
        let editor = config.and_then(Editor::with_config);
        match editor {
            Ok(mut editor) => {
                let history = history();
                if let Some(path) = &history {
                    // The first conversation has no history yet.
                    let _ = editor.load_history(path);
                }
                Self::Terminal {
                    editor: Box::new(editor),
                    history,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "lines cannot be edited on this terminal");
                Self::Pipe
            }
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// One message, of one line or several.
    pub(super) fn read(&mut self) -> Result<Line, Failure> {
        let mut message = String::new();
        let mut quoted = false;
        let mut prompt = PROMPT;
        loop {
            let line = match self.line(prompt)? {
                Line::Message(line) => line,
                // What was typed so far is dropped, as shells do.
                Line::Interrupted => return Ok(Line::Interrupted),
                Line::End if message.is_empty() => return Ok(Line::End),
                Line::End => break,
            };
            prompt = CONTINUED;
            let marks = line.trim() == QUOTES;
            if marks && (quoted || message.is_empty()) {
                quoted = !quoted;
                if quoted {
                    continue;
                }
                message.pop();
                break;
            }
            if quoted {
                message.push_str(&line);
                message.push('\n');
                continue;
            }
            match line.strip_suffix('\\') {
                Some(begun) => {
                    message.push_str(begun);
                    message.push('\n');
                }
                None => {
                    message.push_str(&line);
                    break;
                }
            }
        }
        self.remember(&message);
        Ok(Line::Message(message))
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Failure> {
        let fail = |what: String| {
            Failure::new(
                format!("read a message: {what}"),
                "check where the input comes from",
            )
        };
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Message(line)),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(error) => Err(fail(error.to_string())),
            },
            Self::Pipe => {
                let mut line = String::new();
                let read = stdin().lock().read_line(&mut line);
                if read.map_err(|error| fail(error.to_string()))? == 0 {
                    return Ok(Line::End);
                }
                let text = line.trim_end_matches(['\n', '\r']);
                Ok(Line::Message(text.to_owned()))
            }
        }
    }

    fn remember(&mut self, message: &str) {
        if let Self::Terminal { editor, history } = self
            && !message.trim().is_empty()
        {
            let added = editor.add_history_entry(message);
            let saved = added.and_then(|_| match history {
                Some(path) => editor.save_history(path),
                None => Ok(()),
            });
            if let Err(error) = saved {
                tracing::debug!(%error, "the history is not kept");
            }
        }
    }
}

/// The file that holds earlier messages.
fn history() -> Option<PathBuf> {
    let folder = mlx_sys::vendor::cache_dir().ok()?;
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("chat-history.txt"))
}
