//! Arrays written as literals.

use crate::{Array, Complex32, Element, Result, bf16, f16};

/// An array of the value given, which may be nested as deep as you like: NumPy's `np.array`.
///
/// Integers are int32 and floats float32 unless a suffix says otherwise. A second argument names
/// the element type, which the literals then take. Yields a [`Result`](crate::Result).
///
/// ```
/// use mlx_core::{Dtype, array};
///
/// assert_eq!(array!(2.5)?.shape(), [0; 0]);
/// assert_eq!(array!([1, 2, 3])?.dtype(), Dtype::Int32);
/// assert_eq!(array!([[1.0, 2.0], [3.0, 4.0]])?.dtype(), Dtype::Float32);
/// assert_eq!(array!([[true], [false]])?.shape(), [2, 1]);
/// assert_eq!(array!([1, 2], u8)?.dtype(), Dtype::Uint8);
/// assert_eq!(array!([[0.1; 3]; 2], f64)?.shape(), [2, 3]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// Rows of different lengths do not compile:
///
/// ```compile_fail
/// let x = mlx_core::array!([[1, 2], [3]]);
/// ```
#[macro_export]
macro_rules! array {
    ($value:expr $(,)?) => {
        $crate::Array::from_nested($value)
    };
    ($value:expr, $element:ty $(,)?) => {
        $crate::Array::from_nested_of::<$element>($value)
    };
}

mod sealed {
    pub trait Sealed {}
}

/// A value of which [`array!`](crate::array!) makes an array: an element, or nested Rust arrays.
///
/// `f64` is not among the elements, so that a literal without suffix is an `f32`, as in MLX; name
/// the type for float64: `array!([1.0], f64)`.
pub trait Nested: sealed::Sealed {
    /// The type of the elements.
    type Item: Element;
    #[doc(hidden)]
    fn dims(dims: &mut Vec<usize>);
    #[doc(hidden)]
    fn flatten(self, out: &mut Vec<Self::Item>);
}

/// A value of which [`array!`](crate::array!) makes an array of `T`.
pub trait NestedOf<T>: sealed::Sealed {
    #[doc(hidden)]
    fn dims_of(dims: &mut Vec<usize>);
    #[doc(hidden)]
    fn flatten_of(self, out: &mut Vec<T>);
}

macro_rules! leaves {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}
        impl NestedOf<$type> for $type {
            fn dims_of(_: &mut Vec<usize>) {}
            fn flatten_of(self, out: &mut Vec<$type>) {
                out.push(self);
            }
        }
    )*};
}

macro_rules! inferred {
    ($($type:ty),*) => {$(
        impl Nested for $type {
            type Item = $type;
            fn dims(_: &mut Vec<usize>) {}
            fn flatten(self, out: &mut Vec<$type>) {
                out.push(self);
            }
        }
    )*};
}

leaves!(
    bool, u8, u16, u32, u64, i8, i16, i32, i64, f16, bf16, f32, f64, Complex32
);
inferred!(
    bool, u8, u16, u32, u64, i8, i16, i32, i64, f16, bf16, f32, Complex32
);

impl<N, const M: usize> sealed::Sealed for [N; M] {}

impl<N: Nested, const M: usize> Nested for [N; M] {
    type Item = N::Item;
    fn dims(dims: &mut Vec<usize>) {
        dims.push(M);
        N::dims(dims);
    }
    fn flatten(self, out: &mut Vec<N::Item>) {
        for inner in self {
            inner.flatten(out);
        }
    }
}

impl<T, N: NestedOf<T>, const M: usize> NestedOf<T> for [N; M] {
    fn dims_of(dims: &mut Vec<usize>) {
        dims.push(M);
        N::dims_of(dims);
    }
    fn flatten_of(self, out: &mut Vec<T>) {
        for inner in self {
            inner.flatten_of(out);
        }
    }
}

impl Array {
    /// What [`array!`](crate::array!) calls: an array of an element or of nested Rust arrays.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is none left.
    pub fn from_nested<N: Nested>(value: N) -> Result<Array> {
        let (mut dims, mut data) = (Vec::new(), Vec::new());
        N::dims(&mut dims);
        value.flatten(&mut data);
        Array::from_vec(data, &dims)
    }

    /// What [`array!`](crate::array!) calls when it is told the element type.
    ///
    /// # Errors
    /// As [`from_nested`](Array::from_nested).
    pub fn from_nested_of<T: Element>(value: impl NestedOf<T>) -> Result<Array> {
        fn make<T: Element, N: NestedOf<T>>(value: N) -> Result<Array> {
            let (mut dims, mut data) = (Vec::new(), Vec::new());
            N::dims_of(&mut dims);
            value.flatten_of(&mut data);
            Array::from_vec(data, &dims)
        }
        make(value)
    }
}
