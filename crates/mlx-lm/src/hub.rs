//! Models of the Hugging Face Hub: the local cache that all its tools share, and downloads into it.
//!
//! [`HubCache`] looks at what is there and needs no network. [`Hub`], behind the feature `hub`,
//! fetches what is missing: only the files that loading needs, several at a time, each resumed
//! where an earlier attempt ended.

mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod error;
#[cfg(feature = "hub")]
mod files;
mod id;

pub use cache::{CachedModel, CachedRevision, HubCache, cached_snapshot};
#[cfg(feature = "hub")]
pub use client::{Hub, HubProgress};
#[cfg(feature = "hub")]
pub use error::HubError;
pub use id::HubId;
