//! `+ - * / %`, `& | ^ << >>` and unary `-` and `!` on arrays.
//!
//! Each yields a `Result<Array>` and takes one on either side of an array, so that one `?` closes
//! an expression: `(&a * 2.0 + &b)?`. (Rust's coherence rules forbid operators between two foreign
//! types, so `Result * 2.0` needs a `?` first.) Scalars take the array's dtype where it is floating point or
//! the scalar is an integer, as Python's do: `int32_array * 2.0` is float32, `f16_array * 2.0` is
//! float16.
//!
//! On the left of an array stand `f32` and `i32` only. With `f64` there as well the literal of
//! `1.0 - &x` would have two types to choose from, and `(1.0 - &x)?` would no longer compile; for a
//! constant of full float64 precision use [`Array::scalar_dtype`].

use std::borrow::Borrow;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use crate::ops::{arithmetic, logical};
use crate::{Array, Dtype, Element, Result};

/// A right or left operand.
trait Operand {
    /// A reference stays one: a clone would cost two more calls.
    type Held: Borrow<Array>;
    /// Whether the dtype of the other operand matters.
    const WEAK: bool = false;
    fn operand(self, other: Option<Dtype>) -> Result<Self::Held>;
    fn dtype(&self) -> Option<Dtype> {
        None
    }
}

impl Operand for &Array {
    type Held = Self;
    #[inline]
    fn operand(self, _: Option<Dtype>) -> Result<Self> {
        Ok(self)
    }
    fn dtype(&self) -> Option<Dtype> {
        Some(Array::dtype(self))
    }
}

impl Operand for Array {
    type Held = Array;
    fn operand(self, _: Option<Dtype>) -> Result<Array> {
        Ok(self)
    }
    fn dtype(&self) -> Option<Dtype> {
        Some(Array::dtype(self))
    }
}

impl Operand for Result<Array> {
    type Held = Array;
    fn operand(self, _: Option<Dtype>) -> Result<Array> {
        self
    }
    fn dtype(&self) -> Option<Dtype> {
        self.as_ref().ok().map(Array::dtype)
    }
}

/// A scalar beside an array of dtype `other`.
fn weak_scalar<T: Element + Into<f64>>(value: T, other: Option<Dtype>) -> Result<Array> {
    let integral = T::DTYPE.is_integer();
    match other {
        Some(dtype) if dtype.is_floating() || dtype == Dtype::Complex64 => {
            scalar_of(value.into(), dtype)
        }
        Some(dtype) if integral && dtype.is_integer() => scalar_of(value.into(), dtype),
        _ if integral => scalar_of(value.into(), Dtype::Int32),
        _ => scalar_of(value.into(), Dtype::Float32),
    }
}

fn scalar_of(value: f64, dtype: Dtype) -> Result<Array> {
    fn make<T: Element>(value: f64) -> Result<Array> {
        Array::scalar(T::from_f64(value))
    }
    match dtype {
        Dtype::Bool => make::<bool>(value),
        Dtype::Uint8 => make::<u8>(value),
        Dtype::Uint16 => make::<u16>(value),
        Dtype::Uint32 => make::<u32>(value),
        Dtype::Uint64 => make::<u64>(value),
        Dtype::Int8 => make::<i8>(value),
        Dtype::Int16 => make::<i16>(value),
        Dtype::Int32 => make::<i32>(value),
        Dtype::Int64 => make::<i64>(value),
        Dtype::Float16 => make::<half::f16>(value),
        Dtype::Bfloat16 => make::<half::bf16>(value),
        Dtype::Float32 => make::<f32>(value),
        Dtype::Float64 => make::<f64>(value),
        Dtype::Complex64 => make::<crate::Complex32>(value),
    }
}

impl Array {
    /// A scalar of this dtype, whatever the Rust type of the number.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is none left.
    pub fn scalar_dtype(value: f64, dtype: Dtype) -> Result<Array> {
        scalar_of(value, dtype)
    }
}

#[inline]
fn both<L: Operand, R: Operand>(
    lhs: L,
    rhs: R,
    op: fn(&Array, &Array) -> Result<Array>,
) -> Result<Array> {
    let left = if R::WEAK { lhs.dtype() } else { None };
    let right = if L::WEAK { rhs.dtype() } else { None };
    op(lhs.operand(right)?.borrow(), rhs.operand(left)?.borrow())
}

mod sealed {
    pub trait Sealed {}
}

/// A number beside an array: `f32`, `f64` or `i32`.
///
/// One generic operator for all three, rather than one for each, lets literals go without suffix.
pub trait Scalar: sealed::Sealed + Element + Into<f64> {}

macro_rules! scalars {
    ($($type:ty)*) => {$(
        impl sealed::Sealed for $type {}
        impl Scalar for $type {}
    )*};
}
scalars! { f32 f64 i32 }

struct Number<S>(S);

impl<S: Scalar> Operand for Number<S> {
    type Held = Array;
    const WEAK: bool = true;
    fn operand(self, other: Option<Dtype>) -> Result<Array> {
        weak_scalar(self.0, other)
    }
}

macro_rules! operator {
    (@one $family:ident $trait:ident $method:ident $op:ident; $lhs:ty, $rhs:ty) => {
        impl $trait<$rhs> for $lhs {
            type Output = Result<Array>;
            #[inline]
            fn $method(self, rhs: $rhs) -> Result<Array> {
                both(self, rhs, $family::$op)
            }
        }
    };
    (@scalar $family:ident $trait:ident $method:ident $op:ident; $lhs:ty) => {
        impl<S: Scalar> $trait<S> for $lhs {
            type Output = Result<Array>;
            #[inline]
            fn $method(self, rhs: S) -> Result<Array> {
                both(self, Number(rhs), $family::$op)
            }
        }
    };
    (@left $trait:ident $method:ident $op:ident; $lhs:ty, $rhs:ty) => {
        impl $trait<$rhs> for $lhs {
            type Output = Result<Array>;
            #[inline]
            fn $method(self, rhs: $rhs) -> Result<Array> {
                both(Number(self), rhs, arithmetic::$op)
            }
        }
    };
    (@arrays $family:ident $trait:ident $method:ident $op:ident) => {
        operator!(@one $family $trait $method $op; &Array, &Array);
        operator!(@one $family $trait $method $op; &Array, Array);
        operator!(@one $family $trait $method $op; Array, &Array);
        operator!(@one $family $trait $method $op; Array, Array);
        operator!(@one $family $trait $method $op; &Array, Result<Array>);
        operator!(@one $family $trait $method $op; Array, Result<Array>);
        operator!(@one $family $trait $method $op; Result<Array>, &Array);
        operator!(@one $family $trait $method $op; Result<Array>, Array);
        operator!(@scalar $family $trait $method $op; &Array);
        operator!(@scalar $family $trait $method $op; Array);
    };
    (@bits $trait:ident $method:ident $op:ident) => {
        operator!(@arrays logical $trait $method $op);
    };
    ($trait:ident $method:ident $op:ident) => {
        operator!(@arrays arithmetic $trait $method $op);
        operator!(@left $trait $method $op; f32, &Array);
        operator!(@left $trait $method $op; i32, &Array);
        operator!(@left $trait $method $op; f32, Array);
        operator!(@left $trait $method $op; i32, Array);
    };
}

operator! { Add add add }
operator! { Sub sub subtract }
operator! { Mul mul multiply }
operator! { Div div divide }
operator! { Rem rem remainder }
operator! { @bits BitAnd bitand bitwise_and }
operator! { @bits BitOr bitor bitwise_or }
operator! { @bits BitXor bitxor bitwise_xor }
operator! { @bits Shl shl left_shift }
operator! { @bits Shr shr right_shift }

impl Not for &Array {
    type Output = Result<Array>;
    fn not(self) -> Result<Array> {
        if Array::dtype(self) == Dtype::Bool {
            logical::logical_not(self)
        } else {
            logical::bitwise_invert(self)
        }
    }
}

impl Not for Array {
    type Output = Result<Array>;
    fn not(self) -> Result<Array> {
        !&self
    }
}

impl Neg for &Array {
    type Output = Result<Array>;
    fn neg(self) -> Result<Array> {
        arithmetic::negative(self)
    }
}

impl Neg for Array {
    type Output = Result<Array>;
    fn neg(self) -> Result<Array> {
        arithmetic::negative(&self)
    }
}
