//! Behaviour of the crate as its users see it.

mod bert;
#[cfg(feature = "cli")]
mod cli;
mod encode;
mod load;
mod pool;
mod similarity;
mod support;
