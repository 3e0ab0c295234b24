//! The chapter of `docs/guide` on training, whose examples are tests.

#[doc = include_str!("../../../docs/guide/training.md")]
mod training {}
