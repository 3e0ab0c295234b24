//! The line that shows how training goes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Record;

/// A progress bar with loss, throughput and memory, or nothing.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(visible: bool, steps: u64, done: u64) -> Self {
        let bar = if visible {
            ProgressBar::new(steps)
        } else {
            ProgressBar::hidden()
        };
        let template = "{bar:24} {pos}/{len} [{elapsed} < {eta}] {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        bar.set_position(done);
        bar.reset_eta();
        Self(bar)
    }

    pub(super) fn advance(&self, step: u64) {
        self.0.set_position(step);
    }

    pub(super) fn show(&self, record: &Record, best: Option<f64>) {
        let mut parts = Vec::new();
        parts.extend(record.loss.map(|loss| format!("loss {loss:.4}")));
        parts.extend(best.map(|best| format!("best held out {best:.4}")));
        parts.extend(record.units_per_second.map(|speed| format!("{speed:.0}/s")));
        parts.push(format!("{} MB", record.peak_memory / 1_000_000));
        self.0.set_message(parts.join(", "));
    }

    pub(super) fn finish(&self) {
        self.0.finish();
    }
}
