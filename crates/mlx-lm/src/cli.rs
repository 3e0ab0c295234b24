//! What the programs of this workspace have in common: how they fail, show progress, react to
//! Ctrl-C and find the model that they are to work on.
//!
//! It belongs to programs, not to libraries, and therefore may speak on the terminal.

mod failure;
mod model;
mod output;
mod progress;

pub use failure::Failure;
#[cfg(feature = "hub")]
pub use model::update_model;
pub use model::{default_model, find_model, interrupt_flag};
pub use output::{NewFile, log, note, read_stdin, write_out};
pub use progress::{Progress, Unit};
