//! Every operation, as plain functions in families. Each function whose first argument is an array
//! is also a method of [`Array`](crate::Array).

pub mod arithmetic;
mod checked;
pub mod comparison;
pub mod conv;
pub mod fast;
pub mod fft;
pub mod indexing;
pub mod linalg;
pub mod linalg_basic;
pub mod logical;
pub mod misc;
mod packing;
pub mod quantized;
pub mod random;
pub mod reduction;
pub mod shape;
pub mod unchecked;
