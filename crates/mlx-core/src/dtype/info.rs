//! What dtypes can hold, and what becomes of two of them.

use half::{bf16, f16};

use super::Dtype;
use crate::{Array, Error, Result, ffi};

/// The limits of a floating-point dtype (NumPy's `finfo`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FloatInfo {
    /// Bits of one number; of one part of a complex number.
    pub bits: u32,
    /// The lowest finite number.
    pub min: f64,
    /// The highest finite number.
    pub max: f64,
    /// The distance from 1 to the next number.
    pub eps: f64,
    /// The lowest positive number of full precision.
    pub smallest_normal: f64,
}

/// The limits of an integer dtype (NumPy's `iinfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntInfo {
    /// Bits of one number.
    pub bits: u32,
    /// The lowest number.
    pub min: i64,
    /// The highest number.
    pub max: u64,
}

impl Dtype {
    /// The limits of a floating-point dtype, or of the parts of a complex one.
    pub fn finfo(self) -> Option<FloatInfo> {
        macro_rules! info {
            ($bits:literal, $type:ty) => {
                Some(FloatInfo {
                    bits: $bits,
                    min: <$type>::MIN.into(),
                    max: <$type>::MAX.into(),
                    eps: <$type>::EPSILON.into(),
                    smallest_normal: <$type>::MIN_POSITIVE.into(),
                })
            };
        }
        match self {
            Dtype::Float16 => info!(16, f16),
            Dtype::Bfloat16 => info!(16, bf16),
            Dtype::Float32 | Dtype::Complex64 => info!(32, f32),
            Dtype::Float64 => info!(64, f64),
            _ => None,
        }
    }

    /// The limits of an integer dtype.
    pub fn iinfo(self) -> Option<IntInfo> {
        macro_rules! info {
            ($type:ty) => {
                Some(IntInfo {
                    bits: <$type>::BITS,
                    min: i64::try_from(<$type>::MIN).unwrap_or(0),
                    max: u64::try_from(<$type>::MAX).unwrap_or(u64::MAX),
                })
            };
        }
        match self {
            Dtype::Uint8 => info!(u8),
            Dtype::Uint16 => info!(u16),
            Dtype::Uint32 => info!(u32),
            Dtype::Uint64 => info!(u64),
            Dtype::Int8 => info!(i8),
            Dtype::Int16 => info!(i16),
            Dtype::Int32 => info!(i32),
            Dtype::Int64 => info!(i64),
            _ => None,
        }
    }

    /// The dtype of what an operation makes of this one and `other`.
    ///
    /// ```
    /// # use mlx_core::Dtype;
    /// assert_eq!(Dtype::Int32.promote(Dtype::Float16), Dtype::Float16);
    /// assert_eq!(Dtype::Uint32.promote(Dtype::Int8), Dtype::Int64);
    /// ```
    #[must_use]
    pub fn promote(self, other: Dtype) -> Dtype {
        ffi::promote_types(self, other)
    }

    /// Whether promotion would turn this dtype into `to`.
    #[must_use]
    pub fn can_cast(self, to: Dtype) -> bool {
        self.promote(to) == to
    }
}

/// The dtype to which the arrays promote.
///
/// # Errors
/// [`Error::EmptyInput`] without arrays.
pub fn result_type(arrays: &[&Array]) -> Result<Dtype> {
    arrays
        .iter()
        .map(|array| array.dtype())
        .reduce(Dtype::promote)
        .ok_or_else(|| Error::empty_input("result_type: `arrays`"))
}
