//! Graphs, written down.

use std::io;

use mlx_core::{Array, Result};

use crate::closure::write_graph;

/// The graph that lazy arrays depend on, for reading: what [`print_graph`] and [`export_to_dot`]
/// write. Arrays without a name are called A, B, C, ….
///
/// Nothing is evaluated. Evaluated arrays are inputs: their own graph is gone.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::Graph;
///
/// let x = array!([1.0, 2.0])?;
/// let y = (&x * &x)?.exp()?;
/// let text = Graph::new(&[&y]).name(&x, "x").name(&y, "y").text()?;
/// assert_eq!(
///     text,
///     "Inputs: x [(2), float32]\n\
///      Outputs: y [(2), float32]\n\
///      Multiply x [(2), float32], x [(2), float32] -> C [(2), float32]\n\
///      Exp C [(2), float32] -> y [(2), float32]\n"
/// );
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Graph {
    outputs: Vec<Array>,
    names: Vec<(String, Array)>,
}

impl Graph {
    /// The graph of these arrays.
    pub fn new(outputs: &[&Array]) -> Self {
        Graph {
            outputs: outputs.iter().map(|&array| array.clone()).collect(),
            names: Vec::new(),
        }
    }

    /// Calls an array of the graph by this name.
    pub fn name(mut self, array: &Array, name: impl Into<String>) -> Self {
        self.names.push((name.into(), array.clone()));
        self
    }

    /// One line for each operation, inputs before what uses them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](mlx_core::Error::OutOfMemory) if there is none left.
    pub fn text(&self) -> Result<String> {
        self.write(false)
    }

    /// The graph in the language of Graphviz: `dot -Tsvg` draws it.
    ///
    /// # Errors
    /// As [`text`](Graph::text).
    pub fn dot(&self) -> Result<String> {
        self.write(true)
    }

    fn write(&self, dot: bool) -> Result<String> {
        let bytes = write_graph(dot, &self.outputs, &self.names)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Writes [`Graph::text`] of `outputs`.
///
/// # Errors
/// What writing reports; [`io::ErrorKind::Other`] with what MLX reports.
pub fn print_graph(mut out: impl io::Write, outputs: &[&Array]) -> io::Result<()> {
    let text = Graph::new(outputs).text().map_err(io::Error::other)?;
    out.write_all(text.as_bytes())
}

/// Writes [`Graph::dot`] of `outputs`.
///
/// # Errors
/// As [`print_graph`].
pub fn export_to_dot(mut out: impl io::Write, outputs: &[&Array]) -> io::Result<()> {
    let text = Graph::new(outputs).dot().map_err(io::Error::other)?;
    out.write_all(text.as_bytes())
}
