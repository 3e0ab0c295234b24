//! Behaviour of the transforms, area by area.

#![allow(
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    clippy::cloned_ref_to_slice_refs,
    clippy::cast_precision_loss,
    reason = "tests fail by panicking and are written to be read"
)]

mod compile;
mod custom;
mod export;
mod graph;
mod hooks;
mod import;
mod jacobian;
mod leaks;
mod ops;
mod shapeless;
mod vjp;
mod vmap;
