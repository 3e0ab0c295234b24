use super::file::TensorView;
use super::repack::{Repacked, ScaleFormat, Scales};
use super::types::GgmlType;
use super::write::GgufWriter;
use crate::io::dense::dense_bytes;
use crate::ops::quantized::{QuantizationLayout, Quantized};
use crate::{Array, Dtype, Error, Result};

/// What [`TensorView::read`] makes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorRead {
    /// A dense array of this dtype.
    Dense(Dtype),
    /// One of MLX's quantised formats where one is exact, a dense array otherwise.
    KeepQuantized {
        /// The dtype of dense arrays, and of scales and biases where `Float16`
        /// holds them all; otherwise scales and biases are `Float32`.
        scale_dtype: Dtype,
    },
}

/// A tensor as MLX takes it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TensorArrays {
    /// One array of the tensor's shape.
    Dense(Array),
    /// The operands of [`quantized_matmul`](crate::ops::quantized::quantized_matmul).
    Quantized {
        /// Packed codes, scales and biases.
        parts: Quantized,
        /// Bits, group size and mode.
        layout: QuantizationLayout,
    },
}

impl TensorView<'_> {
    /// The tensor as arrays.
    ///
    /// ```no_run
    /// use mlx_core::Dtype;
    /// use mlx_core::io::gguf::{GgufFile, TensorArrays, TensorRead};
    ///
    /// let file = GgufFile::open("model.gguf")?;
    /// let read = TensorRead::KeepQuantized { scale_dtype: Dtype::Float32 };
    /// match file.tensor("blk.0.attn_q.weight")?.read(read)? {
    ///     TensorArrays::Quantized { layout, .. } => println!("{:?} bits", layout.bits),
    ///     TensorArrays::Dense(array) => println!("{:?}", array.shape()),
    ///     _ => {}
    /// }
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] for the types that [`dequantize`](Self::dequantize) cannot
    /// decode, and whatever creating the arrays reports.
    pub fn read(&self, read: TensorRead) -> Result<TensorArrays> {
        match read {
            TensorRead::Dense(dtype) => self.dense(dtype).map(TensorArrays::Dense),
            TensorRead::KeepQuantized { scale_dtype } => {
                let scales = match scale_dtype {
                    Dtype::Float16 => ScaleFormat::F16,
                    _ => ScaleFormat::F32,
                };
                match self.repack(scales) {
                    Some(repacked) => quantized(repacked),
                    None => self.dense(scale_dtype).map(TensorArrays::Dense),
                }
            }
        }
    }

    fn dense(&self, dtype: Dtype) -> Result<Array> {
        let array = match plain_dtype(self.ggml_type()) {
            // No GPU has float64, so that it becomes an array only on request.
            Some(Dtype::Float64) if dtype != Dtype::Float64 => self.decoded()?,
            Some(stored) => Array::from_bytes(self.bytes(), &self.shape(), stored)?,
            None => self.decoded()?,
        };
        if array.dtype() == dtype {
            Ok(array)
        } else {
            array.astype(dtype)
        }
    }

    fn decoded(&self) -> Result<Array> {
        Array::from_vec(self.dequantize()?, &self.shape())
    }
}

impl GgufWriter<'_> {
    /// Adds an array: `Float32`, `Float16`, `Bfloat16`, `Float64` and signed
    /// integers as they are.
    ///
    /// Evaluates the array.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks); [`Error::Unsupported`] for the other dtypes,
    /// which GGUF cannot hold; and whatever the computation reports.
    pub fn array(&mut self, name: &str, array: &Array) -> Result<()> {
        let ggml_type = GgmlType::ALL
            .iter()
            .copied()
            .find(|&ggml_type| plain_dtype(ggml_type) == Some(array.dtype()))
            .ok_or_else(|| {
                Error::Unsupported(format!(
                    "tensor `{name}`: gguf files hold no {}",
                    array.dtype()
                ))
            })?;
        let shape: Vec<usize> = array
            .shape()
            .iter()
            .filter_map(|&dim| usize::try_from(dim).ok())
            .collect();
        self.blocks(name, &shape, ggml_type, dense_bytes(array)?.into_owned())
    }
}

/// The dtype that stores the elements of `ggml_type` bit for bit.
fn plain_dtype(ggml_type: GgmlType) -> Option<Dtype> {
    Some(match ggml_type {
        GgmlType::F32 => Dtype::Float32,
        GgmlType::F16 => Dtype::Float16,
        GgmlType::BF16 => Dtype::Bfloat16,
        GgmlType::F64 => Dtype::Float64,
        GgmlType::I8 => Dtype::Int8,
        GgmlType::I16 => Dtype::Int16,
        GgmlType::I32 => Dtype::Int32,
        GgmlType::I64 => Dtype::Int64,
        _ => return None,
    })
}

fn quantized(repacked: Repacked) -> Result<TensorArrays> {
    let weight_shape = repacked.weight_shape();
    let scales_shape = repacked.scales_shape();
    let scales = |scales| match scales {
        Scales::F16(halves) => Array::from_vec(halves, &scales_shape),
        Scales::F32(singles) => Array::from_vec(singles, &scales_shape),
        Scales::U8(bytes) => Array::from_vec(bytes, &scales_shape),
    };
    Ok(TensorArrays::Quantized {
        parts: Quantized {
            weight: Array::from_vec(repacked.weight, &weight_shape)?,
            scales: scales(repacked.scales)?,
            biases: repacked.biases.map(scales).transpose()?,
        },
        layout: QuantizationLayout {
            group_size: i32::try_from(repacked.group_size).ok(),
            bits: i32::try_from(repacked.bits).ok(),
            mode: repacked.mode,
        },
    })
}
