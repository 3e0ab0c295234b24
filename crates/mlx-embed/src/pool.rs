//! The vectors of a text's tokens to one vector.

use std::fmt;
use std::str::FromStr;

use mlx_core::ops::arithmetic::{maximum, sqrt};
use mlx_core::ops::comparison::equal;
use mlx_core::ops::indexing::r#where;
use mlx_core::ops::misc::astype;
use mlx_core::ops::reduction::{any_axes, max_axes, min_axes, sum_axes};
use mlx_core::ops::shape::{concatenate, expand_dims, reshape};
use mlx_core::{Array, Dtype};
use serde::Deserialize;
use serde_json::Value;

use crate::folder::Folder;
use crate::{Error, Result};

const CONFIG: &str = "config.json";

/// One way to pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolingMode {
    /// The first token.
    Cls,
    /// The largest value of each feature.
    Max,
    /// The mean of all tokens.
    Mean,
    /// The sum of all tokens over the square root of their number.
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, … by position.
    WeightedMean,
    /// The last token.
    LastToken,
}

impl PoolingMode {
    /// All modes, in the order in which the boolean configuration keys concatenate them.
    pub const ALL: [Self; 6] = [
        Self::Cls,
        Self::Max,
        Self::Mean,
        Self::MeanSqrtLen,
        Self::WeightedMean,
        Self::LastToken,
    ];

    /// The name that configurations use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }
}

impl fmt::Display for PoolingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PoolingMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| Error::Option {
            option: "pooling_mode",
            message: format!("`{name}` is not supported"),
        })
    }
}

/// How the vectors of a text's tokens become one: by one mode, or by several
/// whose results are concatenated.
///
/// ```
/// use mlx_core::Array;
/// use mlx_embed::{Pooling, PoolingMode};
///
/// let tokens = Array::from_slice::<f32>(&[1.0, 2.0, 3.0, 4.0, 9.0, 9.0], &[1, 3, 2])?;
/// let mask = Array::from_slice(&[true, true, false], &[1, 3])?;
/// let pooling = Pooling::new([PoolingMode::Mean, PoolingMode::Max])?;
/// assert_eq!(pooling.forward(&tokens, &mask)?.to_vec::<f32>()?, [2.0, 3.0, 3.0, 4.0]);
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Pooling {
    modes: Vec<PoolingMode>,
    include_prompt: bool,
}

impl Default for Pooling {
    /// The mean, which is what a folder without pooling gets.
    fn default() -> Self {
        Self {
            modes: vec![PoolingMode::Mean],
            include_prompt: true,
        }
    }
}

impl Pooling {
    /// Concatenates what these modes make.
    ///
    /// # Errors
    /// [`Error::Option`] if there is none.
    pub fn new(modes: impl IntoIterator<Item = PoolingMode>) -> Result<Self> {
        let modes: Vec<PoolingMode> = modes.into_iter().collect();
        if modes.is_empty() {
            return Err(Error::Option {
                option: "pooling_mode",
                message: "at least one mode is needed".to_owned(),
            });
        }
        Ok(Self {
            modes,
            include_prompt: true,
        })
    }

    /// Sets whether the tokens of a prompt take part.
    pub fn include_prompt(mut self, include: bool) -> Self {
        self.include_prompt = include;
        self
    }

    /// The modes, in the order of their results.
    #[must_use]
    pub fn modes(&self) -> &[PoolingMode] {
        &self.modes
    }

    pub(crate) fn includes_prompt(&self) -> bool {
        self.include_prompt
    }

    /// The length of a text's vector when those of tokens have `hidden_size` features.
    #[must_use]
    pub fn dimension(&self, hidden_size: i32) -> i32 {
        let modes = i32::try_from(self.modes.len()).unwrap_or(i32::MAX);
        hidden_size.saturating_mul(modes)
    }

    /// Reads `config.json` of a pooling module for vectors of `hidden_size` features.
    pub(crate) fn from_folder(folder: &Folder, hidden_size: i32) -> Result<Self> {
        let config: Config = folder.required(CONFIG)?;
        let refuse = |message| Error::config(folder.name(CONFIG), message);
        if let Some(expected) = config.word_embedding_dimension
            && expected != hidden_size
        {
            return Err(refuse(format!(
                "field `word_embedding_dimension`: {expected}, but the model's hidden_size is {hidden_size}"
            )));
        }
        let modes = config
            .modes()
            .map_err(|message| refuse(format!("field `pooling_mode`: {message}")))?;
        Ok(Self::new(modes)?.include_prompt(config.include_prompt))
    }

    /// Pools `[B, L, D]` over the tokens where `mask [B, L]` is true, in float32: `[B, D · modes]`.
    ///
    /// A row without such a token becomes zeros.
    ///
    /// # Errors
    /// [`Error::Core`] if the shapes do not fit each other.
    pub fn forward(&self, hidden: &Array, mask: &Array) -> Result<Array> {
        let hidden = astype(hidden, Dtype::Float32)?;
        let mask = expand_dims(mask, &[2])?; // [B, L, 1]
        let length = f64::from(hidden.dim(1)?);
        let positions = Array::arange_dtype(1.0, length + 1.0, 1.0, Dtype::Float32)?;
        let positions = reshape(&positions, &[1, -1, 1])?;
        let pooled: Vec<Array> = self
            .modes
            .iter()
            .map(|&mode| pool(mode, &hidden, &mask, &positions))
            .collect::<Result<_>>()?;
        match pooled.as_slice() {
            [single] => Ok(single.clone()),
            several => Ok(concatenate(&several.iter().collect::<Vec<_>>(), -1)?),
        }
    }
}

/// One mode; all but the maximum are weighted sums.
fn pool(mode: PoolingMode, hidden: &Array, mask: &Array, positions: &Array) -> Result<Array> {
    let ones = astype(mask, Dtype::Float32)?;
    let weights = match mode {
        PoolingMode::Max => {
            let lowest = Array::scalar(f32::NEG_INFINITY)?;
            let largest = max_axes(&r#where(mask, hidden, &lowest)?, &[1], false)?;
            let occupied = any_axes(mask, &[1], false)?; // [B, 1]
            return Ok(r#where(&occupied, &largest, &Array::scalar(0.0_f32)?)?);
        }
        PoolingMode::Mean | PoolingMode::MeanSqrtLen => ones,
        PoolingMode::WeightedMean => (ones * positions)?,
        PoolingMode::Cls => {
            let beyond = Array::scalar(f32::INFINITY)?;
            let first = min_axes(&r#where(mask, positions, &beyond)?, &[1], true)?;
            (ones * astype(&equal(positions, &first)?, Dtype::Float32)?)?
        }
        PoolingMode::LastToken => {
            let last = max_axes(&(&ones * positions)?, &[1], true)?;
            (ones * astype(&equal(positions, &last)?, Dtype::Float32)?)?
        }
    };
    let sum = sum_axes(&(hidden * &weights)?, &[1], false)?; // [B, D]
    let total = sum_axes(&weights, &[1], false)?; // [B, 1]
    let total = maximum(&total, &Array::scalar(1e-9_f32)?)?;
    match mode {
        PoolingMode::MeanSqrtLen => Ok((sum / sqrt(&total)?)?),
        _ => Ok((sum / total)?),
    }
}

/// `config.json` of a pooling module: the names of sentence-transformers 6, and the booleans of
/// older versions.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(alias = "embedding_dimension")]
    word_embedding_dimension: Option<i32>,
    pooling_mode: Option<Value>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    #[serde(default = "included")]
    include_prompt: bool,
}

const fn included() -> bool {
    true
}

impl Config {
    fn modes(&self) -> Result<Vec<PoolingMode>, String> {
        let parse = |name: &Value| {
            let name = name
                .as_str()
                .ok_or_else(|| format!("{name} is not a name"))?;
            let mode = name.parse::<PoolingMode>();
            mode.map_err(|_| format!("`{name}` is not supported"))
        };
        match &self.pooling_mode {
            Some(Value::Array(names)) if names.is_empty() => Err("names no mode".to_owned()),
            Some(Value::Array(names)) => names.iter().map(parse).collect(),
            Some(name) => Ok(vec![parse(name)?]),
            None => {
                let flags = [
                    self.pooling_mode_cls_token,
                    self.pooling_mode_max_tokens,
                    self.pooling_mode_mean_tokens,
                    self.pooling_mode_mean_sqrt_len_tokens,
                    self.pooling_mode_weightedmean_tokens,
                    self.pooling_mode_lasttoken,
                ];
                let chosen = PoolingMode::ALL.into_iter().zip(flags);
                let modes: Vec<_> = chosen.filter_map(|(mode, on)| on.then_some(mode)).collect();
                // As sentence-transformers reads a file that chooses nothing.
                Ok(match modes.is_empty() {
                    true => vec![PoolingMode::Mean],
                    false => modes,
                })
            }
        }
    }
}
