//! What the tensors of a checkpoint take in memory, read and loaded, told from their shapes.

use std::collections::BTreeMap;

use mlx_core::Dtype;
use mlx_core::io::SafetensorsFile;
use mlx_nn::{LayerQuantization, QuantMode, Quantization};
use serde_json::Value;

use super::quantize::QuantizeOptions;
use crate::Result;

/// What the loader is told to do with weights.
#[derive(Clone, Copy, Default)]
pub(super) struct Plan<'a> {
    pub(super) dtype: Option<Dtype>,
    pub(super) dequantize: bool,
    pub(super) quantize: Option<&'a QuantizeOptions>,
    pub(super) own_heads: bool,
}

/// How a weight is held once it has been read.
pub(super) enum Form {
    /// Numbers, as a matrix (or several) of so many columns, or as a vector, which has none.
    Dense {
        count: u64,
        columns: u64,
        /// Bytes of each.
        item: u64,
    },
    /// Codes and scales of so many bytes, which as numbers would be `dense`.
    Packed {
        bytes: u64,
        count: u64,
        columns: u64,
        item: u64,
    },
    /// What is neither, and stays as it is.
    Other { bytes: u64 },
}

impl Plan<'_> {
    /// Bytes of a weight after everything that was asked for.
    pub(super) fn loaded(self, path: &str, form: &Form, num_layers: i32) -> u64 {
        let (count, columns, item) = match *form {
            Form::Other { bytes } => return bytes,
            Form::Packed { bytes, .. } if !self.dequantize => return bytes,
            Form::Packed {
                count,
                columns,
                item,
                ..
            } => (count, columns, self.dtype.map_or(item, size_of)),
            Form::Dense {
                count,
                columns,
                item,
            } => (count, columns, item),
        };
        let narrow = i32::try_from(columns).ok().filter(|&columns| columns > 0);
        let layer = narrow.and_then(|columns| self.quantize?.choose(path, columns, num_layers));
        layer.map_or(count.saturating_mul(item), |layer| {
            packed(layer, count, item)
        })
    }
}

/// Bytes of codes and scales for so many numbers, whose scales are numbers of `item` bytes.
fn packed(layer: LayerQuantization, count: u64, item: u64) -> u64 {
    let number = |value: i32| u64::try_from(value).unwrap_or(0);
    let codes = count.saturating_mul(number(layer.bits)) / 8;
    let groups = count / number(layer.group_size).max(1);
    let per_group = match layer.mode {
        QuantMode::Affine => 2 * item,
        _ => 1,
    };
    codes.saturating_add(groups.saturating_mul(per_group))
}

/// The tensors of a safetensors checkpoint, as read and as loaded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footprint {
    pub(super) read: u64,
    pub(super) loaded: u64,
}

/// What says how tensors are stored.
pub(super) struct Storage<'a> {
    /// In MLX's own terms.
    pub(super) own: Option<&'a Quantization>,
    /// In another program's.
    pub(super) foreign: Option<&'a Value>,
}

/// Adds up the tensors `names` of a file.
pub(super) fn footprint<'n>(
    file: &SafetensorsFile,
    names: impl Iterator<Item = &'n str>,
    storage: &Storage<'_>,
    plan: Plan<'_>,
    num_layers: i32,
) -> Result<Footprint> {
    let mut total = Footprint::default();
    let mut weights: BTreeMap<&str, Parts> = BTreeMap::new();
    for name in names {
        let tensor = Tensor {
            shape: file.shape(name)?.iter().map(|&dim| wide(dim)).collect(),
            dtype: file.dtype(name)?,
        };
        total.read = total.read.saturating_add(tensor.bytes());
        let (path, part) = name.rsplit_once('.').unwrap_or((name, ""));
        weights.entry(path).or_default().insert(part, tensor);
    }
    for (path, parts) in &weights {
        // Layers are named as in the wrapper, whose prefix the weights lose.
        let path = path.strip_prefix("language_model.").unwrap_or(path);
        for form in storage.forms(path, parts, plan.dtype) {
            let bytes = plan.loaded(path, &form, num_layers);
            total.loaded = total.loaded.saturating_add(bytes);
        }
    }
    Ok(total)
}

/// The tensors of one module, by the last part of their names.
type Parts<'a> = BTreeMap<&'a str, Tensor>;

struct Tensor {
    shape: Vec<u64>,
    dtype: Dtype,
}

impl Tensor {
    fn count(&self) -> u64 {
        self.shape.iter().fold(1, |a, &b| a.saturating_mul(b))
    }

    fn bytes(&self) -> u64 {
        self.count().saturating_mul(size_of(self.dtype))
    }

    fn columns(&self) -> u64 {
        match self.shape.as_slice() {
            [.., _, columns] => *columns,
            _ => 0,
        }
    }

    /// Bytes of one number after a cast.
    fn item(&self, dtype: Option<Dtype>) -> u64 {
        size_of(
            dtype
                .filter(|_| self.dtype.is_floating())
                .unwrap_or(self.dtype),
        )
    }

    fn cast(&self, dtype: Option<Dtype>) -> Form {
        let (count, item) = (self.count(), self.item(dtype));
        match self.dtype.is_floating() {
            true => Form::Dense {
                count,
                columns: self.columns(),
                item,
            },
            false => Form::Other {
                bytes: count.saturating_mul(item),
            },
        }
    }
}

impl Storage<'_> {
    fn foreign(&self, field: &str) -> Option<&Value> {
        self.foreign?.get(field)
    }

    /// What the tensors of a module become once they are read.
    fn forms(&self, path: &str, parts: &Parts<'_>, dtype: Option<Dtype>) -> Vec<Form> {
        let weight = self.own_packed(path, parts, dtype);
        if let Some(weight) = weight.or_else(|| self.foreign_packed(parts, dtype)) {
            let bias = parts.get("bias").map(|bias| bias.cast(dtype));
            return [weight].into_iter().chain(bias).collect();
        }
        parts.values().map(|tensor| tensor.cast(dtype)).collect()
    }

    fn own_packed(&self, path: &str, parts: &Parts<'_>, dtype: Option<Dtype>) -> Option<Form> {
        let layer = self.own?.layer(path)?;
        let (codes, scales) = (parts.get("weight")?, parts.get("scales")?);
        if codes.dtype != Dtype::Uint32 {
            return None;
        }
        let item = match scales.dtype.is_floating() {
            true => scales.item(dtype),
            false => 2,
        };
        let biases = u64::from(parts.contains_key("biases"));
        let scale_bytes = scales.count().saturating_mul(scales.item(dtype));
        let bits = u64::try_from(layer.bits).unwrap_or(4).max(1);
        Some(Form::Packed {
            bytes: codes
                .bytes()
                .saturating_add((1 + biases).saturating_mul(scale_bytes)),
            count: codes.count().saturating_mul(32) / bits,
            columns: codes.columns().saturating_mul(32) / bits,
            item,
        })
    }

    /// What `formats` makes of another program's codes: packed where one of MLX's modes holds
    /// them, else dense.
    fn foreign_packed(&self, parts: &Parts<'_>, dtype: Option<Dtype>) -> Option<Form> {
        self.foreign?;
        let half = dtype.map_or(2, size_of);
        let dense = |count: u64, columns: u64| Form::Dense {
            count,
            columns,
            item: half,
        };
        // Integers with a scale for each group of columns.
        let codes = parts.get("qweight").or_else(|| parts.get("weight_packed"));
        let is_float = parts.contains_key("weight_global_scale");
        if let (Some(codes), false) = (codes, is_float) {
            let scales = parts.get("scales").or_else(|| parts.get("weight_scale"))?;
            let bits = self.bits();
            let count = codes.bytes().saturating_mul(8) / bits;
            let rows = match parts.contains_key("qweight") {
                // Stored the other way round.
                true => scales.columns(),
                false => codes.shape.first().copied().unwrap_or(0),
            };
            let columns = count / rows.max(1);
            let mixed = self.foreign("desc_act").and_then(Value::as_bool) == Some(true)
                || parts.contains_key("weight_g_idx");
            let group = count / scales.count().max(1);
            // Columns of a single group have no order.
            let mixed = mixed && group < columns;
            if mixed || !matches!(group, 32 | 64 | 128) {
                return Some(dense(count, columns));
            }
            let per_group = if scales.dtype.is_floating() {
                2 * scales.item(dtype)
            } else {
                1
            };
            return Some(Form::Packed {
                bytes: codes
                    .bytes()
                    .saturating_add(scales.count().saturating_mul(per_group)),
                count,
                columns,
                item: half,
            });
        }
        let codes = codes.or_else(|| parts.get("weight"))?;
        if is_float || parts.contains_key("weight_scale_2") {
            // Two 4-bit floats in each byte.
            return Some(dense(2 * codes.bytes(), 2 * codes.columns()));
        }
        let scale = ["weight_scale_inv", "weight_scale"]
            .iter()
            .find_map(|part| parts.get(part))?;
        if self.foreign("quant_method").and_then(Value::as_str) == Some("bitnet") {
            let count = 4 * codes.count();
            let columns = codes.columns();
            // The largest group that divides the columns, with a scale and a bias.
            let group = [128, 64].into_iter().find(|size| columns % size == 0);
            let groups = count / group.unwrap_or(32);
            let bytes = codes.bytes() + groups * 2 * scale.item(dtype);
            return Some(Form::Packed {
                bytes,
                count,
                columns,
                item: half,
            });
        }
        let (count, columns) = (codes.count(), codes.columns());
        if scale.dtype == Dtype::Uint8 && parts.contains_key("weight_scale_inv") {
            let bytes = count.saturating_add(count / 32);
            return Some(Form::Packed {
                bytes,
                count,
                columns,
                item: half,
            });
        }
        Some(dense(count, columns))
    }

    /// Bits of another program's integers.
    fn bits(&self) -> u64 {
        let stated = ["bits", "w_bit"]
            .iter()
            .find_map(|field| self.foreign(field)?.as_u64());
        let scheme = || {
            let groups = self.foreign("config_groups")?.as_object()?;
            groups
                .values()
                .next()?
                .get("weights")?
                .get("num_bits")?
                .as_u64()
        };
        stated.or_else(scheme).unwrap_or(4).clamp(1, 32)
    }
}

fn size_of(dtype: Dtype) -> u64 {
    wide(dtype.size())
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
