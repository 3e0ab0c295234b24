//! The Rust types that arrays hold.

use half::{bf16, f16};

use crate::Dtype;

/// The Rust twin of [`Dtype::Complex64`].
pub type Complex32 = num_complex::Complex<f32>;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type with a [`Dtype`]: `bool`, the integers, `f16`, `bf16`, `f32`, `f64` and
/// [`Complex32`].
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + Send + Sync + 'static {
    /// The dtype of arrays of this type.
    const DTYPE: Dtype;

    /// The value nearest to `value`; complex numbers get a zero imaginary part.
    fn from_f64(value: f64) -> Self;

    /// Whether MLX's bytes of this dtype are always valid values of the Rust type.
    ///
    /// `bool` is not such a type: `view` may leave any byte where a truth value is expected.
    #[doc(hidden)]
    const ANY_BYTES_VALID: bool;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident, $from:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            const ANY_BYTES_VALID: bool = !matches!(Dtype::$dtype, Dtype::Bool);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
            fn from_f64(value: f64) -> Self {
                let from: fn(f64) -> $type = $from;
                from(value)
            }
        }
    )*};
}

elements! {
    bool => Bool, |v| v != 0.0;
    u8 => Uint8, |v| v as u8;
    u16 => Uint16, |v| v as u16;
    u32 => Uint32, |v| v as u32;
    u64 => Uint64, |v| v as u64;
    i8 => Int8, |v| v as i8;
    i16 => Int16, |v| v as i16;
    i32 => Int32, |v| v as i32;
    i64 => Int64, |v| v as i64;
    f16 => Float16, f16::from_f64;
    bf16 => Bfloat16, bf16::from_f64;
    f32 => Float32, |v| v as f32;
    f64 => Float64, |v| v;
    Complex32 => Complex64, |v| Complex32::new(v as f32, 0.0);
}
