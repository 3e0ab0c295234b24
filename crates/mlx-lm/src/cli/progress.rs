//! Progress bars that appear only on a terminal and only for slow work.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

#[cfg(feature = "hub")]
use indicatif::MultiProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the numbers of a bar count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
    /// Anything else: layers, questions, runs.
    Items,
}

/// A bar on standard error that is cleared when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    allowed: bool,
}

impl Progress {
    /// A bar that shows after a second, if standard error is a terminal and `quiet` is not set.
    #[must_use]
    pub fn new(message: impl Into<String>, unit: Unit, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
            .with_style(style(unit));
        bar.set_message(message.into());
        Self {
            bar,
            started: Instant::now(),
            allowed: !quiet && stderr().is_terminal(),
        }
    }

    /// How much is done, and of how much.
    pub fn set(&mut self, done: usize, total: usize) {
        if self.allowed && self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total.try_into().unwrap_or(u64::MAX));
        self.bar.set_position(done.try_into().unwrap_or(u64::MAX));
    }

    /// What is being done.
    pub fn message(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        Unit::Tokens | Unit::Items => "{msg} {wide_bar} {pos}/{len} {eta}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One bar for each file of a download; a finished one makes room for the next.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub(super) struct FileBars {
    all: MultiProgress,
    bars: std::collections::BTreeMap<String, ProgressBar>,
    started: Instant,
    allowed: bool,
}

#[cfg(feature = "hub")]
impl FileBars {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            bars: std::collections::BTreeMap::new(),
            started: Instant::now(),
            allowed: !quiet && stderr().is_terminal(),
        }
    }

    pub(super) fn show(&mut self, step: &crate::hub::HubProgress) {
        if self.allowed && self.all.is_hidden() && self.started.elapsed() > PATIENCE {
            self.all.set_draw_target(ProgressDrawTarget::stderr());
        }
        if step.done >= step.total {
            if let Some(bar) = self.bars.remove(&step.file) {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
            return;
        }
        let all = &self.all;
        let bar = self.bars.entry(step.file.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(step.total).with_style(style(Unit::Bytes)));
            bar.set_message(step.file.clone());
            bar.set_position(step.done);
            // What had arrived earlier does not count as speed.
            bar.reset_eta();
            bar
        });
        bar.set_length(step.total);
        bar.set_position(step.done);
    }
}

#[cfg(feature = "hub")]
impl Drop for FileBars {
    fn drop(&mut self) {
        for bar in self.bars.values() {
            bar.finish_and_clear();
        }
    }
}
