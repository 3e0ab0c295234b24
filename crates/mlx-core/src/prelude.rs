//! The names nearly every program needs: `use mlx_core::prelude::*;`.

pub use crate::{
    Array, Device, Dtype, Element, Ellipsis, Error, IndexOp, IntoShape, NewAxis, Stream,
};
