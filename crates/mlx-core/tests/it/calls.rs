//! Every public op by name, with its arguments from elsewhere: recorded by Python or invented.

#[rustfmt::skip]
#[path = "calls/calls.gen.rs"]
mod generated;
#[path = "calls/holders.rs"]
pub(crate) mod holders;

use mlx_core::ops::linalg_basic::EinsumPath;
use mlx_core::ops::quantized::Quantized;
use mlx_core::{Array, Dtype, Index, Result};

pub(crate) use generated::{NAMES, call};

/// Where a call gets the values of its parameters from, by their names.
pub(crate) trait Arguments {
    fn opt_array(&mut self, name: &str) -> Result<Option<Array>>;
    fn array(&mut self, name: &str) -> Result<Array>;
    fn arrays(&mut self, name: &str) -> Result<Vec<Array>>;
    fn opt_int(&mut self, name: &str) -> Result<Option<i32>>;
    fn int(&mut self, name: &str) -> Result<i32>;
    fn opt_ints(&mut self, name: &str) -> Result<Option<Vec<i32>>>;
    fn ints(&mut self, name: &str) -> Result<Vec<i32>>;
    fn longs(&mut self, name: &str) -> Result<Vec<i64>>;
    fn pairs(&mut self, name: &str) -> Result<Vec<(i32, i32)>>;
    fn u64(&mut self, name: &str) -> Result<u64>;
    fn opt_f32(&mut self, name: &str) -> Result<Option<f32>>;
    fn f64(&mut self, name: &str) -> Result<f64>;
    fn opt_bool(&mut self, name: &str) -> Result<Option<bool>>;
    fn opt_dtype(&mut self, name: &str) -> Result<Option<Dtype>>;
    fn dtype(&mut self, name: &str) -> Result<Dtype>;
    fn opt_text(&mut self, name: &str) -> Result<Option<String>>;
    fn index(&mut self, name: &str) -> Result<Vec<Index>>;

    fn f32(&mut self, name: &str) -> Result<f32> {
        Ok(self.opt_f32(name)?.unwrap_or_default())
    }
    fn bool(&mut self, name: &str) -> Result<bool> {
        Ok(self.opt_bool(name)?.unwrap_or_default())
    }
    fn text(&mut self, name: &str) -> Result<String> {
        Ok(self.opt_text(name)?.unwrap_or_default())
    }
    fn usize(&mut self, name: &str) -> Result<usize> {
        Ok(usize::try_from(self.u64(name)?).unwrap_or(usize::MAX))
    }
}

/// What an op gives, as a list.
pub(crate) trait Results {
    fn into_results(self) -> Vec<Array>;
}

impl Results for () {
    fn into_results(self) -> Vec<Array> {
        Vec::new()
    }
}

impl Results for Array {
    fn into_results(self) -> Vec<Array> {
        vec![self]
    }
}

impl Results for Vec<Array> {
    fn into_results(self) -> Vec<Array> {
        self
    }
}

impl Results for (Array, Array) {
    fn into_results(self) -> Vec<Array> {
        vec![self.0, self.1]
    }
}

impl Results for (Array, Array, Array) {
    fn into_results(self) -> Vec<Array> {
        vec![self.0, self.1, self.2]
    }
}

impl Results for EinsumPath {
    fn into_results(self) -> Vec<Array> {
        Vec::new()
    }
}

impl Results for Quantized {
    fn into_results(self) -> Vec<Array> {
        let mut parts = vec![self.weight, self.scales];
        parts.extend(self.biases);
        parts
    }
}

/// Calls a generic function with the Rust type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $call:expr) => {
        match $dtype {
            mlx_core::Dtype::Bool => {
                type $t = bool;
                $call
            }
            mlx_core::Dtype::Uint8 => {
                type $t = u8;
                $call
            }
            mlx_core::Dtype::Uint16 => {
                type $t = u16;
                $call
            }
            mlx_core::Dtype::Uint32 => {
                type $t = u32;
                $call
            }
            mlx_core::Dtype::Uint64 => {
                type $t = u64;
                $call
            }
            mlx_core::Dtype::Int8 => {
                type $t = i8;
                $call
            }
            mlx_core::Dtype::Int16 => {
                type $t = i16;
                $call
            }
            mlx_core::Dtype::Int32 => {
                type $t = i32;
                $call
            }
            mlx_core::Dtype::Int64 => {
                type $t = i64;
                $call
            }
            mlx_core::Dtype::Float16 => {
                type $t = mlx_core::f16;
                $call
            }
            mlx_core::Dtype::Bfloat16 => {
                type $t = mlx_core::bf16;
                $call
            }
            mlx_core::Dtype::Float32 => {
                type $t = f32;
                $call
            }
            mlx_core::Dtype::Float64 => {
                type $t = f64;
                $call
            }
            mlx_core::Dtype::Complex64 => {
                type $t = mlx_core::Complex32;
                $call
            }
        }
    };
}
pub(crate) use with_element;
