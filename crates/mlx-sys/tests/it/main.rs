//! One program for all integration tests of this crate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod disk_full;
mod fetch;
mod installed;
mod link;
mod nvidia;
mod pins;
mod support;
mod unpack;
