//! The module tree: one trait with two traversals, and what is built on them.
//!
//! A model is a struct of layers. `#[derive(Module)]` makes each field's name its checkpoint key;
//! [`Array`](mlx_core::Array) and `Option<Array>` fields are parameters, primitives are leaves
//! without parameters, and a field of any other type fails to compile until it is marked
//! `#[module(skip)]`. Loading, saving, quantising, counting and training are plain functions over
//! the two visits.

mod buffer;
pub mod checkpoint;
mod containers;
pub mod exchange;
pub mod gradient;
pub mod initialize;
pub mod load;
pub mod parameters;
mod path;
pub mod quantize;
pub mod save;
pub mod summary;
mod visit;
pub mod weights;

pub use buffer::Buffer;
pub(crate) use containers::parameter_free;
pub use path::KeyPath;
pub use visit::{Descend, Module, Visitor, VisitorMut};
