//! One line per stage of a fetch; on a terminal, a percentage that moves.

use std::io::{IsTerminal as _, Write as _};

use crate::fetch::Progress;

/// Shows what a fetch is doing.
pub(crate) struct Line {
    shown: String,
    terminal: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            shown: String::new(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// To be passed wherever a fetch asks for a progress callback.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let (text, fraction) = match progress {
            Progress::Waiting { package } => (
                format!("{package}: waiting for another process that fetches it"),
                None,
            ),
            Progress::Downloading {
                package,
                done,
                total,
            } => (format!("{package}: downloading"), Some((*done, *total))),
            Progress::Verifying {
                package,
                done,
                total,
            } => (
                format!("{package}: checking the digest"),
                Some((*done, Some(*total))),
            ),
            Progress::Unpacking {
                package,
                done,
                total,
            } => (format!("{package}: unpacking"), Some((*done, Some(*total)))),
            Progress::Ready { .. } => (String::new(), None),
        };
        let text = if self.terminal {
            text + &amount(fraction)
        } else {
            text
        };
        if text == self.shown {
            return;
        }
        if self.terminal {
            // Back to the start of the line, then clear it.
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else if !text.is_empty() {
            eprintln!("{text}");
        }
        self.shown = text;
    }
}

fn amount(fraction: Option<(u64, Option<u64>)>) -> String {
    match fraction {
        Some((done, Some(total))) if total > 0 => {
            format!(" {}%", done.saturating_mul(100) / total)
        }
        Some((done, _)) => format!(" {} MB", done / 1_000_000),
        None => String::new(),
    }
}
