//! The names nearly every program needs: `use mlx_core::prelude::*;`.
//!
//! ```
//! use mlx_core::prelude::*;
//!
//! let x = array!([[1.0, 2.0], [3.0, 4.0]])?;
//! assert_eq!(x.index((.., -1))?.to_vec::<f32>()?, [2.0, 4.0]);
//! # Ok::<(), Error>(())
//! ```

pub use crate::{
    Array, Complex32, Device, DeviceType, Dtype, Element, Ellipsis, Error, Index, IndexOp,
    IntoShape, NewAxis, Result, Stream, array, async_eval, bf16, eval, f16,
};
