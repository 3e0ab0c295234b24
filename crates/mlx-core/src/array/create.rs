//! Arrays from Rust values, and arrays that need no operand.

use crate::ops::misc::diagonal_within;
use crate::shape::checked_size;
use crate::{Array, Dtype, Element, Error, IntoShape, Result, ffi};

impl Array {
    /// Copies `data`, which must fill `shape`, in row-major order.
    ///
    /// ```
    /// # use mlx_core::Array;
    /// let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
    /// assert_eq!(x.shape(), [2, 3]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ.
    pub fn from_slice<T: Element>(data: &[T], shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
        let dims = shape.dims()?;
        fill("from_slice", data.len(), &dims, T::DTYPE)?;
        ffi::array_from_bytes(ffi::bytes_of(data), &dims, T::DTYPE)
    }

    /// Takes `data` over. Without a copy where MLX can use foreign memory: on Metal, if the vector
    /// begins and ends with a page. MLX's other back ends copy it and free it at once; to write
    /// into an array's memory directly use [`build`](Array::build).
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not fill `shape`.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
        let dims = shape.dims()?;
        fill("from_vec", data.len(), &dims, T::DTYPE)?;
        ffi::array_from_vec(data, &dims)
    }

    /// An array whose memory `fill` writes, in row-major order and without a copy afterwards. The
    /// slice begins as zeros (`false`).
    ///
    /// ```
    /// # use mlx_core::Array;
    /// let squares = Array::build(&[2, 3], |out| {
    ///     for (i, value) in (0i32..).zip(out) {
    ///         *value = i * i;
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(squares.to_vec::<i32>()?, [0, 1, 4, 9, 16, 25]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large, or what `fill` returns.
    pub fn build<T: Element>(
        shape: &(impl IntoShape + ?Sized),
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<Array> {
        let dims = shape.dims()?;
        let size = checked_size("build", &dims, T::DTYPE)?;
        ffi::array_build(&dims, size, fill)
    }

    /// Copies the bytes of row-major elements in the machine's byte order.
    ///
    /// Bytes of a `Bool` array other than 0 and 1 count as true.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` does not fill `shape`.
    pub fn from_bytes(
        bytes: &[u8],
        shape: &(impl IntoShape + ?Sized),
        dtype: Dtype,
    ) -> Result<Array> {
        let dims = shape.dims()?;
        let size = checked_size("from_bytes", &dims, dtype)?;
        if bytes.len() != size * dtype.size() {
            return Err(Error::shape(
                "from_bytes",
                format!(
                    "{} bytes do not fill shape {dims:?} of {dtype}, which takes {}",
                    bytes.len(),
                    size * dtype.size()
                ),
            ));
        }
        if dtype == Dtype::Bool && bytes.iter().any(|&byte| byte > 1) {
            let normal: Vec<u8> = bytes.iter().map(|&byte| u8::from(byte != 0)).collect();
            return ffi::array_from_bytes(&normal, &dims, dtype);
        }
        ffi::array_from_bytes(bytes, &dims, dtype)
    }

    /// An array without dimensions.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is none left.
    pub fn scalar<T: Element>(value: T) -> Result<Array> {
        ffi::array_from_scalar(value)
    }

    /// An array of `shape` with `value` everywhere.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large.
    pub fn full<T: Element>(shape: &(impl IntoShape + ?Sized), value: T) -> Result<Array> {
        let dims = shape.dims()?;
        checked_size("full", &dims, T::DTYPE)?;
        ffi::ops::full(&dims, &Array::scalar(value)?, T::DTYPE)
    }

    /// An array of zeros (`false` for `bool`).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large.
    pub fn zeros<T: Element>(shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
        Self::zeros_dtype(shape, T::DTYPE)
    }

    /// [`zeros`](Array::zeros) with the dtype as a value.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large.
    pub fn zeros_dtype(shape: &(impl IntoShape + ?Sized), dtype: Dtype) -> Result<Array> {
        let dims = shape.dims()?;
        checked_size("zeros", &dims, dtype)?;
        ffi::ops::zeros(&dims, dtype)
    }

    /// An array of ones (`true` for `bool`).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large.
    pub fn ones<T: Element>(shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
        Self::ones_dtype(shape, T::DTYPE)
    }

    /// [`ones`](Array::ones) with the dtype as a value.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is negative or absurdly large.
    pub fn ones_dtype(shape: &(impl IntoShape + ?Sized), dtype: Dtype) -> Result<Array> {
        let dims = shape.dims()?;
        checked_size("ones", &dims, dtype)?;
        ffi::ops::ones(&dims, dtype)
    }

    /// The numbers from `start` in steps of `step` up to, not including, `stop`: `[N]`.
    ///
    /// ```
    /// # use mlx_core::Array;
    /// assert_eq!(Array::arange::<i32>(0.0, 10.0, 3.0)?.to_vec::<i32>()?, [0, 3, 6, 9]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the step is zero, an argument is not finite, or the range is longer
    /// than an axis can be.
    pub fn arange<T: Element>(start: f64, stop: f64, step: f64) -> Result<Array> {
        Self::arange_dtype(start, stop, step, T::DTYPE)
    }

    /// [`arange`](Array::arange) with the dtype as a value.
    ///
    /// # Errors
    /// As [`arange`](Array::arange).
    pub fn arange_dtype(start: f64, stop: f64, step: f64, dtype: Dtype) -> Result<Array> {
        let count = (stop - start) / step;
        if !count.is_finite() || count >= f64::from(i32::MAX) {
            return Err(Error::shape(
                "arange",
                format!("from {start} to {stop} in steps of {step} is no finite range that fits"),
            ));
        }
        ffi::ops::arange(start, stop, step, dtype)
    }

    /// `num` evenly spaced numbers from `start` to `stop`: `[num]` in float32.
    ///
    /// # Errors
    /// [`Error::Shape`] if `num` is negative.
    pub fn linspace(start: f64, stop: f64, num: i32) -> Result<Array> {
        if num < 0 {
            return Err(Error::shape(
                "linspace",
                format!("num is {num}, which is negative"),
            ));
        }
        ffi::ops::linspace(start, stop, num, true, Dtype::Float32)
    }

    /// [`linspace`](Array::linspace) with the dtype as a value; without `endpoint` the numbers stop
    /// one step before `stop`.
    ///
    /// # Errors
    /// As [`linspace`](Array::linspace).
    pub fn linspace_with(
        start: f64,
        stop: f64,
        num: i32,
        endpoint: bool,
        dtype: Dtype,
    ) -> Result<Array> {
        checked_size("linspace", &[num], dtype)?;
        ffi::ops::linspace(start, stop, num, endpoint, dtype)
    }

    /// Ones on the diagonal `k` of an `[n, m]` matrix, zeros elsewhere.
    ///
    /// # Errors
    /// [`Error::Shape`] if `n` or `m` is negative.
    pub fn eye<T: Element>(n: i32, m: i32, k: i32) -> Result<Array> {
        checked_size("eye", &[n, m], T::DTYPE)?;
        ffi::ops::eye(n, m, k, T::DTYPE)
    }

    /// The identity matrix `[n, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `n` is negative.
    pub fn identity<T: Element>(n: i32) -> Result<Array> {
        Self::eye::<T>(n, n, 0)
    }

    /// Ones on and below the diagonal `k` of an `[n, m]` matrix, zeros above.
    ///
    /// # Errors
    /// [`Error::Shape`] if `n` or `m` is negative or both together are longer than an axis can be.
    pub fn tri<T: Element>(n: i32, m: i32, k: i32) -> Result<Array> {
        checked_size("tri", &[n, m], T::DTYPE)?;
        let k = diagonal_within("tri", n, m, k)?;
        ffi::ops::tri(n, m, k, T::DTYPE)
    }
}

fn fill(op: &'static str, len: usize, dims: &[i32], dtype: Dtype) -> Result<()> {
    let size = checked_size(op, dims, dtype)?;
    if size == len {
        Ok(())
    } else {
        Err(Error::shape(
            op,
            format!("{len} elements do not fill shape {dims:?}, which takes {size}"),
        ))
    }
}

impl<T: Element> TryFrom<&[T]> for Array {
    type Error = Error;

    fn try_from(data: &[T]) -> Result<Array> {
        Array::from_slice(data, &[data.len()])
    }
}

impl<T: Element, const N: usize> TryFrom<[T; N]> for Array {
    type Error = Error;

    fn try_from(data: [T; N]) -> Result<Array> {
        Array::from_slice(&data, &[N])
    }
}

impl<T: Element> TryFrom<Vec<T>> for Array {
    type Error = Error;

    fn try_from(data: Vec<T>) -> Result<Array> {
        let len = data.len();
        Array::from_vec(data, &[len])
    }
}
