//! Arrays as text, the way MLX writes them.

use std::fmt;

use crate::{Array, Complex32, Dtype, Element, Elements, Result};

/// How many elements at each end of a long axis are shown.
const EDGE: usize = 3;
/// The significant digits of floating-point numbers, and the exponent from which they are written
/// in powers of ten.
const DIGITS: i32 = 6;

/// Evaluates the array and writes its elements as MLX does in Python: axes longer than six show
/// three elements at each end, floats six significant digits. An error is written in place.
///
/// `{:#}` shows every element; a precision, as in `{:.2}`, shows that many decimals.
///
/// ```
/// # use mlx_core::array;
/// let x = array!([[1.0, 2.5], [-3.0, 1.0 / 3.0]])?;
/// assert_eq!(x.to_string(), "array([[1, 2.5],\n       [-3, 0.333333]], dtype=float32)");
/// assert_eq!(format!("{:.1}", array!([1.0, 0.25])?), "array([1.0, 0.2], dtype=float32)");
/// # Ok::<(), mlx_core::Error>(())
/// ```
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Text {
            precision: f.precision(),
            whole: f.alternate(),
        };
        match text.array(self) {
            Ok(text) => f.write_str(&text),
            Err(error) => write!(
                f,
                "array(<{error}>, shape={:?}, dtype={})",
                self.shape(),
                self.dtype()
            ),
        }
    }
}

/// Dtype, shape and state; never evaluates.
impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_available() {
            "available"
        } else {
            "lazy"
        };
        write!(f, "Array({}{:?}, {state})", self.dtype(), self.shape())
    }
}

/// The choices of one formatting.
#[derive(Clone, Copy)]
struct Text {
    precision: Option<usize>,
    whole: bool,
}

impl Text {
    fn array(self, array: &Array) -> Result<String> {
        match array.dtype() {
            Dtype::Bool => self.each(array, |v: bool| if v { "True" } else { "False" }.to_owned()),
            Dtype::Uint8 => self.each(array, |v: u8| v.to_string()),
            Dtype::Uint16 => self.each(array, |v: u16| v.to_string()),
            Dtype::Uint32 => self.each(array, |v: u32| v.to_string()),
            Dtype::Uint64 => self.each(array, |v: u64| v.to_string()),
            Dtype::Int8 => self.each(array, |v: i8| v.to_string()),
            Dtype::Int16 => self.each(array, |v: i16| v.to_string()),
            Dtype::Int32 => self.each(array, |v: i32| v.to_string()),
            Dtype::Int64 => self.each(array, |v: i64| v.to_string()),
            Dtype::Float16 => self.each(array, |v: half::f16| self.float(v.to_f64())),
            Dtype::Bfloat16 => self.each(array, |v: half::bf16| self.float(v.to_f64())),
            Dtype::Float32 => self.each(array, |v: f32| self.float(f64::from(v))),
            Dtype::Float64 => self.each(array, |v: f64| self.float(v)),
            Dtype::Complex64 => self.each(array, |v: Complex32| {
                let plus = if v.im < 0.0 { "" } else { "+" };
                let (re, im) = (self.float(f64::from(v.re)), self.float(f64::from(v.im)));
                format!("{re}{plus}{im}j")
            }),
        }
    }

    /// Reads only the elements that are shown.
    fn each<T: Element>(self, array: &Array, text: impl Fn(T) -> String) -> Result<String> {
        let elements = array.elements::<T>()?;
        let mut out = String::from("array(");
        let mut position = Vec::with_capacity(array.ndim());
        self.nested(&mut out, array.shape(), &elements, &mut position, &text);
        out.push_str(", dtype=");
        out.push_str(array.dtype().name());
        out.push(')');
        Ok(out)
    }

    fn nested<T: Element>(
        self,
        out: &mut String,
        shape: &[i32],
        elements: &Elements<'_, T>,
        position: &mut Vec<usize>,
        text: &impl Fn(T) -> String,
    ) {
        let Some(&dim) = shape.get(position.len()) else {
            if let Some(value) = elements.get(position) {
                out.push_str(&text(value));
            }
            return;
        };
        let len = usize::try_from(dim).unwrap_or(0);
        let last = position.len() + 1 == shape.len();
        let separator = if last {
            ", ".to_owned()
        } else {
            // Aligned under the first element of this level, after "array(".
            format!(
                ",\n{:indent$}",
                "",
                indent = "array(".len() + position.len() + 1
            )
        };
        out.push('[');
        let mut i = 0;
        while i < len {
            if i > 0 {
                out.push_str(&separator);
            }
            if !self.whole && i == EDGE && len > 2 * EDGE {
                out.push_str("...");
                i = len - EDGE;
                continue;
            }
            position.push(i);
            self.nested(out, shape, elements, position, text);
            position.pop();
            i += 1;
        }
        out.push(']');
    }

    /// C's `%g`, or `%f` with a precision.
    fn float(self, value: f64) -> String {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        if value.is_nan() {
            return format!("{sign}nan");
        }
        if value.is_infinite() {
            return format!("{sign}inf");
        }
        if let Some(precision) = self.precision {
            return format!("{value:.precision$}");
        }
        // Rounded to the digits first: 999999.5 is a million, and so has an exponent.
        let scientific = format!("{value:.5e}");
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        if (-4..DIGITS).contains(&exponent) {
            let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
            return trim(&format!("{value:.decimals$}")).to_owned();
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.unsigned_abs())
    }
}

/// Without the zeros that end a fraction.
fn trim(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_axes_are_cut_unless_asked_for_whole() {
        let x = Array::arange::<i32>(0.0, 8.0, 1.0).unwrap();
        assert_eq!(x.to_string(), "array([0, 1, 2, ..., 5, 6, 7], dtype=int32)");
        assert_eq!(
            format!("{x:#}"),
            "array([0, 1, 2, 3, 4, 5, 6, 7], dtype=int32)"
        );
    }

    #[test]
    fn errors_are_written_in_place() {
        let singular = Array::zeros::<f32>(&[2, 2]).unwrap().inv().unwrap();
        assert!(singular.to_string().contains('<'), "{singular}");
    }
}
