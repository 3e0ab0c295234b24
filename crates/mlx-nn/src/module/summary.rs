//! What a model consists of, as a table.

use std::fmt;

use mlx_core::Array;

use crate::{
    Descend, KeyPath, Module, Visitor, Weight, adapter::Adapter, module::parameters::is_floating,
};

/// One array of a model, or one quantised weight.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SummaryRow {
    /// The key.
    pub key: String,
    /// The shape; that of what it stands for if it is quantised.
    pub shape: Vec<i32>,
    /// How it is stored: a dtype, or bits and mode.
    pub storage: String,
    /// How many numbers it stands for.
    pub parameters: u64,
    /// How much memory it takes, in bytes.
    pub bytes: u64,
    /// Whether training may change it.
    pub trainable: bool,
}

/// The rows of a model; printed, a table with a header and their sum.
///
/// ```
/// use mlx_nn::{Linear, summary};
///
/// let table = summary(&Linear::new(4, 2, true)?);
/// assert_eq!((table.parameters(), table.bytes()), (10, 40));
/// assert!(table.to_string().contains("weight  [2, 4]  float32"));
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// In the order of the model's fields.
    pub rows: Vec<SummaryRow>,
}

impl Summary {
    /// How many numbers the model is made of.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    /// How many of them training may change.
    #[must_use]
    pub fn trainable(&self) -> u64 {
        let trainable = self.rows.iter().filter(|row| row.trainable);
        trainable.map(|row| row.parameters).sum()
    }

    /// How much memory they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.bytes).sum()
    }
}

/// Lists the arrays of a model with their shapes and sizes; nothing is evaluated.
#[must_use]
pub fn summary(module: &dyn Module) -> Summary {
    let mut rows = Rows(Vec::new());
    module.visit(&KeyPath::root(), &mut rows);
    Summary { rows: rows.0 }
}

struct Rows(Vec<SummaryRow>);

impl Rows {
    fn add(&mut self, path: &KeyPath<'_>, array: &Array, trainable: bool) {
        self.0.push(SummaryRow {
            key: path.to_string(),
            shape: array.shape().to_vec(),
            storage: array.dtype().to_string(),
            parameters: count(array.shape()),
            bytes: bytes(array),
            trainable: trainable && is_floating(array.dtype()),
        });
    }
}

impl<'a> Visitor<'a> for Rows {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.add(path, array, true);
    }

    fn buffer(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.add(path, array, false);
    }

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let base = match weight {
            Weight::Adapted(adapted) => adapted.base(),
            weight => weight,
        };
        let (storage, bytes) = match base {
            Weight::Unloaded { .. } => ("not loaded".to_owned(), 0),
            Weight::Quantized(weight) => (
                weight.quantization.to_string(),
                bytes(&weight.codes)
                    + bytes(&weight.scales)
                    + weight.biases.as_ref().map_or(0, bytes),
            ),
            Weight::Dense(_) | Weight::Adapted(_) => return Descend::Into,
        };
        let shape = base.shape();
        self.0.push(SummaryRow {
            key: path.child("weight").to_string(),
            parameters: count(&shape),
            shape,
            storage,
            bytes,
            trainable: false,
        });
        if let Weight::Adapted(adapted) = weight {
            let Adapter {
                lora_a,
                lora_b,
                magnitude,
                ..
            } = adapted.adapter();
            self.add(&path.child("lora_a"), lora_a, true);
            self.add(&path.child("lora_b"), lora_b, true);
            if let Some(magnitude) = magnitude {
                self.add(&path.child("m"), magnitude, true);
            }
        }
        Descend::Over
    }
}

fn count(shape: &[i32]) -> u64 {
    let dims = shape.iter().map(|&dim| u64::try_from(dim).unwrap_or(0));
    dims.product()
}

fn bytes(array: &Array) -> u64 {
    u64::try_from(array.nbytes()).unwrap_or(u64::MAX)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["key", "shape", "storage", "parameters", "bytes"].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            [
                row.key.clone(),
                format!("{:?}", row.shape),
                row.storage.clone(),
                row.parameters.to_string(),
                row.bytes.to_string(),
            ]
        });
        let cells: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
        let width = |column: usize| {
            let lengths = cells.iter().filter_map(|row| row.get(column));
            lengths.map(String::len).max().unwrap_or(0)
        };
        let widths = [0, 1, 2, 3, 4].map(width);
        for [key, shape, storage, parameters, bytes] in &cells {
            let [a, b, c, d, e] = widths;
            writeln!(
                f,
                "{key:a$}  {shape:b$}  {storage:c$}  {parameters:>d$}  {bytes:>e$}"
            )?;
        }
        write!(
            f,
            "{} parameters ({} trainable), {} bytes",
            self.parameters(),
            self.trainable(),
            self.bytes()
        )
    }
}
