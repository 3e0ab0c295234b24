//! Arguments that are sometimes right, often nearly right, and sometimes absurd.

use std::collections::HashMap;

use mlx_core::{Array, Dtype, Element, Index, Result, ops};

use super::recipes;
use crate::calls::{Arguments, with_element};

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    pub(super) fn int(&mut self, low: i32, high: i32) -> i32 {
        let span = u64::try_from(i64::from(high) - i64::from(low) + 1).unwrap_or(1);
        i32::try_from(i64::from(low) + i64::try_from(self.next() % span.max(1)).unwrap()).unwrap()
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const EXTREMES: &[i32] = &[
    0,
    -1,
    1,
    2,
    -2,
    31,
    33,
    i32::MIN,
    i32::MIN + 1,
    i32::MAX,
    i32::MAX - 1,
    1 << 16,
    1 << 24,
    1 << 30,
    -(1 << 30),
    65_537,
];

const DIMS: &[i32] = &[
    1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64,
];
const NUMBERS: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    3.0,
    -7.0,
    100.0,
    255.0,
    256.0,
    1e-8,
    1e8,
    1e30,
    -1e30,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN_POSITIVE,
    1e-45,
    9.3e18,
    -9.3e18,
    2_147_483_648.0,
    -2_147_483_648.0,
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "constant",
    "edge",
    "affine",
    "left",
    "right",
    "xy",
    "ij",
    "L",
    "U",
    "fro",
    "nuc",
    "causal",
    "\0",
    "é\u{1F600}",
    "ij,jk->ik",
    "...",
    "->",
    "%s%n",
];

/// An argument source for one case.
pub(super) struct Hostile {
    pub(super) rng: Rng,
    /// Whether an argument is so large that its results must not be computed.
    pub(super) huge: bool,
    family: String,
    name: String,
    /// How often, in percent, an argument is meant to be right.
    care: u64,
    recipe: HashMap<&'static str, Vec<Array>>,
    numbers: HashMap<&'static str, Vec<i32>>,
    /// How the weights of the recipe are packed.
    mode: Option<&'static str>,
    /// The array that other arguments refer to.
    first: Option<Array>,
    list: usize,
    verbose: bool,
}

impl Hostile {
    pub(super) fn new(seed: u64, case: u64, family: &str, name: &str) -> Result<Self> {
        let mut rng = Rng(seed.wrapping_mul(0x1000_0000_01b3) ^ case.wrapping_mul(0x9e37_79b9));
        rng.next();
        let care = rng.pick(&[100, 100, 90, 90, 70, 40]);
        let mut source = Hostile {
            rng,
            huge: false,
            family: family.to_owned(),
            name: name.to_owned(),
            care,
            recipe: HashMap::new(),
            numbers: HashMap::new(),
            mode: None,
            first: None,
            list: 1,
            verbose: std::env::var_os("MLX_FUZZ_VERBOSE").is_some(),
        };
        if source.rng.chance(75) {
            (source.recipe, source.numbers, source.mode) =
                recipes::find(&mut source.rng, family, name)?;
        }
        Ok(source)
    }

    fn careful(&mut self) -> bool {
        let care = self.care;
        self.rng.chance(care)
    }

    #[allow(clippy::print_stderr)]
    fn note<T: std::fmt::Debug>(&self, name: &str, value: T) -> T {
        if self.verbose {
            eprintln!("  {name} = {value:?}");
        }
        value
    }

    fn note_array(&mut self, name: &str, array: Array) -> Array {
        if self.first.is_none() && !name.contains("indices") && name != "key" {
            self.first = Some(array.clone());
        }
        if self.verbose {
            let small = array.size() < 64 && array.is_available();
            let values = if small {
                array.to_string()
            } else {
                String::new()
            };
            self.note(name, format!("{array:?} {values}"));
        }
        array
    }

    fn shape(&self) -> Vec<i32> {
        self.first
            .as_ref()
            .map_or_else(|| vec![3, 4], |array| array.shape().to_vec())
    }

    fn rank(&self) -> i32 {
        i32::try_from(self.shape().len()).unwrap()
    }

    fn any_shape(&mut self) -> Vec<i32> {
        let rank = self.rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 12]);
        let mut left = 4096;
        (0..rank)
            .map(|_| {
                let dim = if self.rng.chance(4) {
                    0
                } else {
                    self.rng.pick(DIMS).min(left)
                };
                left /= dim.max(1);
                dim
            })
            .collect()
    }

    /// A shape that has to do with the first array's.
    fn related_shape(&mut self) -> Vec<i32> {
        let mut shape = self.shape();
        match self.rng.below(8) {
            0..=3 => {}
            4 if !shape.is_empty() => {
                let axis = self.rng.below(shape.len());
                shape[axis] = 1;
            }
            5 if !shape.is_empty() => {
                shape.remove(0);
            }
            6 => shape.reverse(),
            _ => shape = self.any_shape(),
        }
        shape
    }

    fn any_dtype(&mut self) -> Dtype {
        if self.rng.chance(40) {
            Dtype::Float32
        } else {
            self.rng.pick(&Dtype::ALL)
        }
    }

    fn filled(&mut self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let shape = &limited(shape)[..];
        let size = volume(shape);
        let wild = self.rng.below(3);
        let mut values = Vec::new();
        for i in 0..size {
            values.push(match wild {
                0 => f64::from(i % 11) - 3.0,
                1 => f64::from(self.rng.int(-1000, 1000)) / 128.0,
                _ => self.rng.pick(NUMBERS),
            });
        }
        let array = with_element!(dtype, T => {
            let data: Vec<T> = values.iter().map(|&v| <T as Element>::from_f64(v)).collect();
            Array::from_slice(&data, shape)
        })?;
        self.disguised(array)
    }

    /// The same kind of array with other strides, or not computed yet.
    fn disguised(&mut self, array: Array) -> Result<Array> {
        let rank = array.ndim();
        match self.rng.below(12) {
            0 => array.transpose(),
            1 if rank > 0 => array.flip(),
            2 if rank > 0 => {
                let axes: Vec<i32> = (0..i32::try_from(rank).unwrap()).collect();
                array.concatenate_with_itself(&axes)
            }
            3 => {
                let mut shape = array.shape().to_vec();
                shape.insert(0, 2);
                array.broadcast_to(&shape)
            }
            4 | 5 => ops::shape::flip(&ops::shape::flip(&array)?),
            6 if rank > 1 => array.swapaxes(-1, -2)?.contiguous(false)?.swapaxes(-1, -2),
            _ => Ok(array),
        }
    }

    fn indices(&mut self, shape: &[i32]) -> Result<Array> {
        let shape = &limited(shape)[..];
        let dtype = if self.careful() {
            self.rng
                .pick(&[Dtype::Int32, Dtype::Uint32, Dtype::Int64, Dtype::Uint8])
        } else {
            self.any_dtype()
        };
        let limit = self
            .shape()
            .iter()
            .copied()
            .max()
            .unwrap_or(1)
            .clamp(1, 100);
        let least = self
            .shape()
            .iter()
            .copied()
            .min()
            .unwrap_or(1)
            .clamp(1, 100);
        let careful = self.careful();
        let size = volume(shape);
        let values: Vec<f64> = (0..size)
            .map(|_| {
                if careful {
                    f64::from(self.rng.int(0, least - 1))
                } else if self.rng.chance(60) {
                    f64::from(self.rng.int(-2 * limit, 2 * limit))
                } else {
                    self.rng.pick(NUMBERS)
                }
            })
            .collect();
        let array = with_element!(dtype, T => {
            let data: Vec<T> = values.iter().map(|&v| <T as Element>::from_f64(v)).collect();
            Array::from_slice(&data, shape)
        })?;
        if self.rng.chance(40) && dtype != Dtype::Bool {
            return ops::arithmetic::maximum(&array, &array);
        }
        Ok(array)
    }

    fn any_array(&mut self, name: &str) -> Result<Array> {
        if let Some(arrays) = self.recipe.get(name)
            && let Some(array) = arrays.first().cloned()
        {
            if self.careful() {
                return Ok(array);
            }
            if self.rng.chance(50) {
                return self.disguised(array);
            }
        }
        if name == "key" && self.careful() {
            return ops::random::key(self.rng.next());
        }
        if !self.careful() && self.rng.chance(8) {
            self.huge = true;
            if self.family == "array" {
                // Indexing with masks reads them at once: this one is not worth the wait, the
                // next is refused.
                return Array::scalar(true)?.broadcast_to(&[1 << 30, 1 << 20]);
            }
            let shape: &[i32] = self.rng.pick(&[
                &[i32::MAX][..],
                &[1 << 20, 1 << 20],
                &[1 << 30, 1 << 30],
                &[1 << 16, 3, 1 << 16],
                &[0, i32::MAX],
                &[i32::MAX, i32::MAX],
            ]);
            let dtype = self.any_dtype();
            return Array::scalar_dtype(1.0, dtype)?.broadcast_to(shape);
        }
        let index_like = ["indices", "targets", "segments", "start", "offsets"];
        if index_like.iter().any(|word| name.contains(word)) {
            let shape = if self.rng.chance(50) {
                self.related_shape()
            } else {
                self.any_shape()
            };
            return self.indices(&shape);
        }
        let shape = if self.first.is_some() && self.rng.chance(70) {
            self.related_shape()
        } else {
            self.any_shape()
        };
        let dtype = match &self.first {
            _ if name.contains("mask") || name == "condition" => Dtype::Bool,
            Some(first) if self.rng.chance(60) => first.dtype(),
            _ => self.any_dtype(),
        };
        self.filled(&shape, dtype)
    }

    fn any_int(&mut self, name: &str) -> i32 {
        if let Some(value) = self
            .numbers
            .get(name)
            .and_then(|list| list.first().copied())
            && self.careful()
        {
            return value;
        }
        if !self.careful() {
            return self.rng.pick(EXTREMES);
        }
        let rank = self.rank();
        match name {
            "axis" | "axis1" | "axis2" | "start_axis" | "end_axis" | "source" | "destination" => {
                let low = if rank == 0 { 0 } else { -rank };
                self.rng.int(low, (rank - 1).max(0))
            }
            "width" => self.rng.pick(&[1, 2, 4]),
            "block_size" => self.rng.pick(&[32, 64]),
            "group_size" => self.rng.pick(&[16, 32, 64, 128]),
            "bits" => self.rng.pick(&[1, 2, 3, 4, 5, 6, 8]),
            "low" => self.rng.int(-10, 0),
            "high" => self.rng.int(1, 10),
            "num_splits" | "groups" | "num" | "n_fft" | "hop_length" | "win_length" => {
                self.rng.int(1, 8)
            }
            "dims" => 2 * self.rng.int(1, 4),
            _ => self.rng.int(-2, 8),
        }
    }

    fn any_ints(&mut self, name: &str) -> Vec<i32> {
        if let Some(values) = self.numbers.get(name).cloned()
            && self.careful()
        {
            return values;
        }
        let shape = self.shape();
        let rank = shape.len();
        let spatial = match self.name.as_str() {
            "conv_general" => Some(2),
            name => name.chars().rev().find_map(|c| c.to_digit(10)),
        };
        if let (Some(count), "conv") = (spatial, self.family.as_str()) {
            let low = i32::from(!name.contains("padding"));
            let high = if self.careful() {
                3
            } else {
                // Little comes out of a large stride, but the work between may be large.
                self.huge = true;
                1 << 20
            };
            return (0..count).map(|_| self.rng.int(low, high)).collect();
        }
        if !self.careful() {
            let len = self.rng.below(6);
            return (0..len)
                .map(|_| {
                    if self.rng.chance(50) {
                        self.rng.pick(EXTREMES)
                    } else {
                        self.rng.int(-3, 8)
                    }
                })
                .collect();
        }
        match name {
            "axes" | "axes_lhs" | "axes_rhs" => {
                let mut axes: Vec<i32> = (0..self.rank()).collect();
                let whole = self.name.contains("transpose");
                for i in 0..axes.len() {
                    let j = self.rng.below(axes.len());
                    axes.swap(i, j);
                }
                if !whole {
                    let keep = if self.family == "indexing" {
                        self.list.min(axes.len())
                    } else {
                        self.rng.below(axes.len() + 1)
                    };
                    axes.truncate(keep);
                }
                axes
            }
            "slice_sizes" | "slice_size" => shape
                .iter()
                .map(|&dim| self.rng.int(0, dim.max(0)).min(3))
                .collect(),
            "starts" => shape.iter().map(|&dim| self.rng.int(-1, dim)).collect(),
            "stops" => shape
                .iter()
                .map(|&dim| self.rng.int(0, dim.saturating_add(1)))
                .collect(),
            "strides" => (0..rank)
                .map(|_| self.rng.pick(&[1, 1, 2, -1, 3]))
                .collect(),
            "reps" => (0..rank).map(|_| self.rng.int(0, 3)).collect(),
            "shape" => match self.rng.below(4) {
                0 => vec![-1],
                1 => {
                    let mut wider = shape;
                    wider.insert(0, self.rng.int(0, 3));
                    wider
                }
                2 => self.related_shape(),
                _ => self.any_shape(),
            },
            "indices" => {
                let last = shape.first().copied().unwrap_or(0).max(0);
                let mut cuts = vec![self.rng.int(0, last), self.rng.int(0, last)];
                cuts.sort_unstable();
                cuts
            }
            _ => {
                let len = if self.list > 1 { self.list } else { rank };
                (0..len).map(|_| self.rng.int(1, 8)).collect()
            }
        }
    }
}

/// A shape whose elements can be made: relatives of an absurd array are not.
fn limited(shape: &[i32]) -> Vec<i32> {
    let mut left = 8192;
    shape
        .iter()
        .map(|&dim| {
            let dim = dim.clamp(0, left);
            left /= dim.max(1);
            dim
        })
        .collect()
}

fn volume(shape: &[i32]) -> i32 {
    shape.iter().product()
}

/// What a strided view of a longer array looks like.
trait Strided {
    fn concatenate_with_itself(&self, axes: &[i32]) -> Result<Array>;
}

impl Strided for Array {
    fn concatenate_with_itself(&self, axes: &[i32]) -> Result<Array> {
        let axis = axes.last().copied().unwrap_or(0);
        let twice = ops::shape::repeat_axis(self, 2, axis)?;
        let mut strides = vec![1; axes.len()];
        if let Some(last) = strides.last_mut() {
            *last = 2;
        }
        let stops = twice.shape().to_vec();
        ops::indexing::slice_strided(&twice, &vec![0; axes.len()], &stops, &strides)
    }
}

impl Arguments for Hostile {
    fn opt_array(&mut self, name: &str) -> Result<Option<Array>> {
        let wanted = self.recipe.contains_key(name) || self.rng.chance(30) || name == "biases";
        if !wanted || !(self.careful() || self.rng.chance(50)) {
            return Ok(None);
        }
        self.array(name).map(Some)
    }

    fn array(&mut self, name: &str) -> Result<Array> {
        let array = self.any_array(name)?;
        Ok(self.note_array(name, array))
    }

    fn arrays(&mut self, name: &str) -> Result<Vec<Array>> {
        if let Some(arrays) = self.recipe.get(name).cloned()
            && self.careful()
        {
            self.list = arrays.len();
            for array in &arrays {
                let _ = self.note_array(name, array.clone());
            }
            return Ok(arrays);
        }
        let count = if self.careful() {
            1 + self.rng.below(2)
        } else {
            self.rng.below(5)
        };
        self.list = count;
        (0..count).map(|_| self.array(name)).collect()
    }

    fn opt_int(&mut self, name: &str) -> Result<Option<i32>> {
        if self.numbers.contains_key(name) || self.rng.chance(50) {
            return self.int(name).map(Some);
        }
        Ok(None)
    }

    fn int(&mut self, name: &str) -> Result<i32> {
        let value = self.any_int(name);
        // A transform of millions of points is right, and slow.
        self.huge |= self.family == "fft" && value > 1 << 14;
        Ok(self.note(name, value))
    }

    fn opt_ints(&mut self, name: &str) -> Result<Option<Vec<i32>>> {
        if self.numbers.contains_key(name) || self.rng.chance(50) {
            return self.ints(name).map(Some);
        }
        Ok(None)
    }

    fn ints(&mut self, name: &str) -> Result<Vec<i32>> {
        let values = self.any_ints(name);
        self.huge |= self.family == "fft" && values.iter().any(|&value| value > 1 << 12);
        Ok(self.note(name, values))
    }

    fn longs(&mut self, name: &str) -> Result<Vec<i64>> {
        let values = (0..self.rng.below(4))
            .map(|_| {
                if self.careful() {
                    i64::from(self.rng.int(0, 2))
                } else {
                    self.rng
                        .pick(&[i64::MIN, i64::MAX, -1, 0, 1 << 40, -(1 << 62)])
                }
            })
            .collect();
        Ok(self.note(name, values))
    }

    fn pairs(&mut self, name: &str) -> Result<Vec<(i32, i32)>> {
        let count = if self.careful() {
            self.shape().len()
        } else {
            self.rng.below(5)
        };
        let pairs = (0..count)
            .map(|_| {
                if self.careful() {
                    (self.rng.int(0, 3), self.rng.int(0, 3))
                } else {
                    (self.rng.pick(EXTREMES), self.rng.pick(EXTREMES))
                }
            })
            .collect();
        Ok(self.note(name, pairs))
    }

    fn u64(&mut self, name: &str) -> Result<u64> {
        let value = if self.careful() {
            self.rng.next() % 4
        } else {
            self.rng.pick(&[u64::MAX, 1 << 63, u64::MAX - 7, 1 << 40])
        };
        Ok(self.note(name, value))
    }

    fn opt_f32(&mut self, name: &str) -> Result<Option<f32>> {
        if self.rng.chance(30) {
            return Ok(None);
        }
        #[allow(clippy::cast_possible_truncation)]
        let value = self.f64(name)? as f32;
        Ok(Some(value))
    }

    fn f64(&mut self, name: &str) -> Result<f64> {
        let value = if self.careful() {
            f64::from(self.rng.int(-40, 80)) / 8.0
        } else {
            self.rng.pick(NUMBERS)
        };
        Ok(self.note(name, value))
    }

    fn opt_bool(&mut self, name: &str) -> Result<Option<bool>> {
        let value = self.rng.pick(&[None, Some(true), Some(false)]);
        Ok(self.note(name, value))
    }

    fn opt_dtype(&mut self, name: &str) -> Result<Option<Dtype>> {
        if self.rng.chance(50) {
            return Ok(None);
        }
        self.dtype(name).map(Some)
    }

    fn dtype(&mut self, name: &str) -> Result<Dtype> {
        let dtype = self.any_dtype();
        Ok(self.note(name, dtype))
    }

    fn opt_text(&mut self, name: &str) -> Result<Option<String>> {
        let known = recipes::texts(&self.family, name);
        let packed = self.mode.filter(|_| name == "mode" && self.careful());
        let text = if let Some(mode) = packed {
            mode
        } else if self.careful() && !known.is_empty() {
            self.rng.pick(known)
        } else {
            self.rng.pick(TEXTS)
        };
        Ok(Some(self.note(name, text.to_owned())))
    }

    fn index(&mut self, name: &str) -> Result<Vec<Index>> {
        let count = if self.careful() {
            self.shape().len().min(3)
        } else {
            self.rng.below(6)
        };
        let mut parts = Vec::new();
        for axis in 0..count {
            let dim = self.shape().get(axis).copied().unwrap_or(1).clamp(1, 1000);
            let value = if self.careful() {
                self.rng.int(-dim, dim - 1)
            } else {
                self.rng.pick(EXTREMES)
            };
            let step = if self.careful() {
                self.rng.pick(&[1, 2, -1])
            } else {
                self.rng.pick(EXTREMES)
            };
            parts.push(match self.rng.below(10) {
                0..=2 => Index::Int(value),
                3..=5 => Index::slice(Some(value), None, step),
                6 => Index::slice(None, Some(value), step),
                7 => Index::Ellipsis,
                8 => Index::NewAxis,
                _ => {
                    let shape = self.related_shape();
                    if self.rng.chance(40) {
                        Index::Array(self.filled(&shape, Dtype::Bool)?)
                    } else {
                        Index::Array(self.indices(&[2])?)
                    }
                }
            });
        }
        Ok(self.note(name, parts))
    }
}
