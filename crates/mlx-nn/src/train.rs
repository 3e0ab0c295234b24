//! Training: a compiled step, and a small trainer around it.
//!
//! [`TrainStep`] turns a loss and an optimizer into one function of arrays, compiled, in which the
//! parameters, the optimizer's state and the random key are declared inputs and outputs. With the
//! feature `train` there is a `Trainer` that feeds it from a `Loader`, writes a log and
//! checkpoints, and resumes exactly; with `plot` it draws the loss curve.

#[cfg(feature = "train")]
mod checkpoint;
#[cfg(feature = "train")]
mod loader;
#[cfg(feature = "train")]
mod log;
#[cfg(feature = "plot")]
mod plot;
#[cfg(feature = "train")]
mod progress;
mod step;
mod trace;
#[cfg(feature = "train")]
mod trainer;

#[cfg(feature = "train")]
pub use loader::{Batch, Dataset, Loader, LoaderOptions, Position};
#[cfg(feature = "train")]
pub use log::{Log, Record};
#[cfg(feature = "plot")]
pub use plot::loss_curve;
pub use step::{StepOptions, TrainStep};
#[cfg(feature = "train")]
pub use trainer::{Report, StopReason, Trainer, TrainerOptions};
