//! Arrays as text, in NumPy's manner.

use std::fmt;

use crate::{Array, Complex32, Dtype, Element, Result};

/// Arrays with more elements than this are summarised.
const THRESHOLD: usize = 1000;
/// How many elements at each end of a summarised axis are shown.
const EDGE: usize = 3;

/// Evaluates the array and writes its elements. An error in that is written in place.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match texts(self) {
            Ok(cells) => {
                let width = cells.iter().flatten().map(String::len).max().unwrap_or(0);
                let mut cells = cells.iter();
                f.write_str("array(")?;
                nested(
                    f,
                    self.shape(),
                    0,
                    width,
                    self.size() > THRESHOLD,
                    &mut cells,
                )?;
                write!(f, ", dtype={})", self.dtype())
            }
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

/// The texts of the elements that will be shown; `None` for those left out.
fn texts(array: &Array) -> Result<Vec<Option<String>>> {
    fn each<T: Element>(array: &Array, text: impl Fn(T) -> String) -> Result<Vec<Option<String>>> {
        let summarise = array.size() > THRESHOLD;
        let shape = array.shape();
        let values = array.to_vec::<T>()?;
        Ok(values
            .into_iter()
            .enumerate()
            .map(|(position, value)| (!summarise || shown(position, shape)).then(|| text(value)))
            .collect())
    }
    fn float(value: f64) -> String {
        if value == 0.0 || (1e-4..1e6).contains(&value.abs()) || !value.is_finite() {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "only its shortest digits matter"
            )]
            let short = value as f32;
            return format!("{short}");
        }
        format!("{value:.4e}")
    }
    match array.dtype() {
        Dtype::Bool => each(array, |v: bool| v.to_string()),
        Dtype::Uint8 => each(array, |v: u8| v.to_string()),
        Dtype::Uint16 => each(array, |v: u16| v.to_string()),
        Dtype::Uint32 => each(array, |v: u32| v.to_string()),
        Dtype::Uint64 => each(array, |v: u64| v.to_string()),
        Dtype::Int8 => each(array, |v: i8| v.to_string()),
        Dtype::Int16 => each(array, |v: i16| v.to_string()),
        Dtype::Int32 => each(array, |v: i32| v.to_string()),
        Dtype::Int64 => each(array, |v: i64| v.to_string()),
        Dtype::Float16 => each(array, |v: half::f16| float(v.to_f64())),
        Dtype::Bfloat16 => each(array, |v: half::bf16| float(v.to_f64())),
        Dtype::Float32 => each(array, |v: f32| float(f64::from(v))),
        Dtype::Float64 => each(array, |v: f64| v.to_string()),
        Dtype::Complex64 => each(array, |v: Complex32| v.to_string()),
    }
}

/// Whether every coordinate of this row-major position is near an end of its axis.
fn shown(position: usize, shape: &[i32]) -> bool {
    let mut rest = position;
    shape.iter().rev().all(|&dim| {
        let dim = usize::try_from(dim).unwrap_or(1).max(1);
        let coordinate = rest % dim;
        rest /= dim;
        coordinate < EDGE || coordinate + EDGE >= dim
    })
}

fn nested(
    f: &mut fmt::Formatter<'_>,
    shape: &[i32],
    depth: usize,
    width: usize,
    summarise: bool,
    cells: &mut std::slice::Iter<'_, Option<String>>,
) -> fmt::Result {
    let Some((&dim, inner)) = shape.split_first() else {
        let text = cells.next().and_then(Option::as_deref).unwrap_or("");
        return if depth == 0 {
            f.write_str(text)
        } else {
            write!(f, "{text:>width$}")
        };
    };
    let len = usize::try_from(dim).unwrap_or(0);
    f.write_str("[")?;
    let mut gap = false;
    for i in 0..len {
        if summarise && len > 2 * EDGE && (EDGE..len - EDGE).contains(&i) {
            let inner_size: usize = inner
                .iter()
                .map(|&dim| usize::try_from(dim).unwrap_or(0))
                .product();
            if inner_size > 0 {
                cells.nth(inner_size - 1);
            }
            if !gap {
                separator(f, i > 0, inner.len(), depth)?;
                f.write_str("...")?;
                gap = true;
            }
            continue;
        }
        separator(f, i > 0, inner.len(), depth)?;
        nested(f, inner, depth + 1, width, summarise, cells)?;
    }
    f.write_str("]")
}

fn separator(f: &mut fmt::Formatter<'_>, needed: bool, inner: usize, depth: usize) -> fmt::Result {
    if !needed {
        return Ok(());
    }
    if inner == 0 {
        return f.write_str(", ");
    }
    f.write_str(",")?;
    for _ in 0..inner {
        f.write_str("\n")?;
    }
    // Aligned under the first element of this level, after "array(".
    write!(f, "{:indent$}", "", indent = "array(".len() + depth + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_arrays_show_every_element() {
        let x = Array::from_slice(&[1.0f32, 2.5, -3.0, 4.0], &[2, 2]).unwrap();
        assert_eq!(
            x.to_string(),
            "array([[  1, 2.5],\n       [ -3,   4]], dtype=float32)"
        );
    }

    #[test]
    fn large_arrays_are_summarised() {
        let x = Array::arange::<i32>(0.0, 2000.0, 1.0).unwrap();
        assert_eq!(
            x.to_string(),
            "array([   0,    1,    2, ..., 1997, 1998, 1999], dtype=int32)"
        );
    }

    #[test]
    fn scalars_and_empty_arrays_have_no_padding() {
        assert_eq!(
            Array::scalar(true).unwrap().to_string(),
            "array(true, dtype=bool)"
        );
        let empty = Array::zeros::<f32>(&[0]).unwrap();
        assert_eq!(empty.to_string(), "array([], dtype=float32)");
    }

    #[test]
    fn errors_are_written_in_place() {
        let singular = Array::zeros::<f32>(&[2, 2]).unwrap().inv().unwrap();
        assert!(singular.to_string().contains('<'), "{singular}");
    }
}
