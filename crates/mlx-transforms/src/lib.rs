//! Function transformations: gradients, vectorisation, compilation and custom derivatives.
//!
//! A function here is anything of the shape `Fn(&[Array]) -> Result<Vec<Array>>`. A transform
//! takes one and returns another, so transforms nest: the gradient of a gradient is a second
//! derivative.
//!
//! ```
//! use mlx_core::{Array, Result, ops::arithmetic::{sin, square}};
//! use mlx_transforms::grad;
//!
//! let slope = grad(|xs| Ok(vec![square(&xs[0])?]), &[0])?;
//! let curvature = grad(slope, &[0])?;
//! let x = Array::scalar(3.0f32)?;
//! assert_eq!(curvature(&[x])?[0].item::<f32>()?, 2.0);
//! # Ok::<(), mlx_core::Error>(())
//! ```
//!
//! An error that a function returns reaches the caller of the transformed function as itself. A
//! panic ends at the boundary and becomes [`Error::Panic`](mlx_core::Error::Panic). Neither
//! leaves anything behind: other transforms, on this thread or another, go on as if nothing had
//! happened.

#![allow(
    clippy::type_complexity,
    reason = "functions of functions are what this crate is about"
)]

mod checkpoint;
mod closure;
mod compile;
mod custom;
mod export;
mod grad;
mod graph;
#[cfg(doctest)]
mod guide;
mod jacobian;
mod tree;
mod vjp;
mod vmap;

pub use checkpoint::checkpoint;
pub use closure::Closure;
pub use compile::{
    CompileMode, State, compile, compile_with_state, disable_compile, enable_compile,
    set_compile_mode,
};
pub use custom::{CustomFunction, custom_function, custom_jvp, custom_vjp, custom_vmap};
pub use export::{
    ExportOptions, Exporter, ImportedFunction, Keywords, export_function, import_function,
};
pub use grad::{grad, value_and_grad};
pub use graph::{Graph, export_to_dot, print_graph};
pub use jacobian::{hessian, jacobian, jacobian_forward};
pub use mlx_core::ops::misc::stop_gradient;
pub use mlx_core::{async_eval, eval};
pub use tree::{Axes, Node, Part, Tree};
pub use vjp::{jvp, vjp};
pub use vmap::{vmap, vmap_tree};
