//! Rotary position embedding, with every way of stretching it that published models use.

mod field;
mod length;
mod parameters;
mod wavelengths;

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{maximum, power},
        comparison::greater,
        fast::{self, RopeOptions},
        indexing::{slice, slice_update, r#where},
        misc::astype,
        reduction::max,
        shape::reshape,
    },
};

pub use field::RopeParametersField;
use length::end;
pub use length::with_planned_length;
pub use parameters::{Factors, RopeKind, RopeParameters};
use wavelengths::LongRope;

use crate::{Error, Result, module::parameter_free};

/// Rotates pairs of features by angles proportional to their position.
///
/// It holds no parameters of the checkpoint. From "RoFormer: Enhanced Transformer with Rotary
/// Position Embedding" (2021).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Rope;
///
/// let rope = Rope::new(8, 10_000.0)?;
/// let queries = Array::ones::<f32>(&[1, 2, 3, 8])?; // [B, heads, L, D]
/// assert_eq!(rope.forward(&queries, 5)?.shape(), [1, 2, 3, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "RoPE")]
#[derive(Debug, Clone)]
pub struct Rope {
    dims: i32,
    traditional: bool,
    frequencies: Frequencies,
}

#[derive(Debug, Clone)]
enum Frequencies {
    /// Positions are multiplied by `scale`.
    Base { base: f32, scale: f32 },
    /// The base grows once a sequence exceeds `context`.
    Dynamic {
        base: f32,
        factor: f32,
        context: i32,
    },
    /// A wavelength for each pair, and how much the rotated features are amplified.
    Wavelengths {
        wavelengths: Array,
        amplification: f32,
    },
    /// Two such sets, for sequences up to and beyond `context`.
    Long {
        short: (Array, f32),
        long: (Array, f32),
        context: i32,
    },
}

/// The position of the first element of a sequence.
#[derive(Debug, Clone, Copy)]
pub enum Offset<'a> {
    /// The same for the whole batch.
    Shared(i32),
    /// One for each sequence, `[B]`.
    Each(&'a Array),
}

impl From<i32> for Offset<'_> {
    fn from(offset: i32) -> Self {
        Self::Shared(offset)
    }
}

impl<'a> From<&'a Array> for Offset<'a> {
    fn from(offsets: &'a Array) -> Self {
        Self::Each(offsets)
    }
}

impl Rope {
    /// Rotates the first `dims` features, the halves of which form the pairs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `dims` is not positive and even or `base` not positive.
    pub fn new(dims: i32, base: f32) -> Result<Self> {
        check(dims, base)?;
        let frequencies = Frequencies::Base { base, scale: 1.0 };
        Ok(Self {
            dims,
            traditional: false,
            frequencies,
        })
    }

    /// Rotates the first `dims` features as a configuration says.
    ///
    /// `rope_theta` is 10,000 if the parameters do not state it. `max_position_embeddings` is the
    /// context length of the configuration, which some kinds need.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown kind; [`Error::InvalidArgument`] if a field that the
    /// kind needs is missing or out of range.
    pub fn from_parameters(
        dims: i32,
        parameters: &RopeParameters,
        max_position_embeddings: Option<i32>,
    ) -> Result<Self> {
        let base = parameters.rope_theta.unwrap_or(10_000.0);
        check(dims, base)?;
        let frequencies = match parameters.kind()? {
            RopeKind::Default => Frequencies::Base { base, scale: 1.0 },
            RopeKind::Mrope => {
                let sections = parameters.mrope_section.as_ref().map(Vec::len);
                if sections != Some(3) {
                    return Err(Error::invalid(
                        "Rope",
                        "`mrope_section` must have three entries",
                    ));
                }
                Frequencies::Base { base, scale: 1.0 }
            }
            RopeKind::Linear => {
                let scale = 1.0 / RopeParameters::require("factor", parameters.factor)?;
                Frequencies::Base { base, scale }
            }
            RopeKind::Dynamic => {
                let factor = RopeParameters::require("factor", parameters.factor)?;
                let context =
                    RopeParameters::require("max_position_embeddings", max_position_embeddings)?;
                if context <= 0 || dims <= 2 {
                    let message =
                        format!("dynamic scaling of {dims} features over {context} positions");
                    return Err(Error::invalid("Rope", message));
                }
                Frequencies::Dynamic {
                    base,
                    factor,
                    context,
                }
            }
            RopeKind::Llama3 => Frequencies::Wavelengths {
                wavelengths: wavelengths::llama3(parameters, base, dims)?,
                amplification: 1.0,
            },
            RopeKind::Yarn => Frequencies::Wavelengths {
                wavelengths: wavelengths::yarn(parameters, base, dims, max_position_embeddings)?,
                amplification: wavelengths::yarn_amplification(parameters)?,
            },
            RopeKind::LongRope => {
                let LongRope {
                    short,
                    long,
                    context,
                } = wavelengths::longrope(parameters, base, dims, max_position_embeddings)?;
                Frequencies::Long {
                    short,
                    long,
                    context,
                }
            }
            RopeKind::Proportional => Frequencies::Wavelengths {
                wavelengths: wavelengths::proportional(parameters, base, dims)?,
                amplification: 1.0,
            },
        };
        Ok(Self {
            dims,
            traditional: false,
            frequencies,
        })
    }

    /// Pairs neighbouring features instead of halves, as GPT-J and a few others do.
    #[must_use]
    pub fn traditional(mut self, traditional: bool) -> Self {
        self.traditional = traditional;
        self
    }

    /// How many features are rotated.
    #[must_use]
    pub const fn dims(&self) -> i32 {
        self.dims
    }

    /// Rotates `[B, .., L, D]`, of which the first position is `offset`; features beyond `dims`
    /// pass unchanged.
    ///
    /// Nothing is evaluated, also not with an offset for each sequence. A longrope sequence uses
    /// the factors for its own length, and one with dynamic scaling the base for it, as far as it
    /// goes with this pass or will go by [`with_planned_length`]; keys that were cached before it
    /// grew keep theirs.
    ///
    /// # Errors
    /// [`Error::Core`] if `x` has fewer than `dims` features or the offsets do not fit the batch.
    pub fn forward<'a>(&self, x: &Array, offset: impl Into<Offset<'a>>) -> Result<Array> {
        let offset = offset.into();
        match &self.frequencies {
            Frequencies::Base { base, scale } => {
                self.rotate(x, offset, RopeOptions::default().base(*base).scale(*scale))
            }
            Frequencies::Wavelengths {
                wavelengths,
                amplification,
            } => self.rotate_by(x, offset, wavelengths, *amplification),
            Frequencies::Dynamic {
                base,
                factor,
                context,
            } => {
                let length = length(x)?;
                match offset {
                    Offset::Shared(start) => {
                        let longest = end(start, length).max(*context);
                        let base = self.dynamic_base(*base, *factor, *context, longest);
                        self.rotate(x, offset, RopeOptions::default().base(base))
                    }
                    Offset::Each(starts) => {
                        let longest =
                            (astype(&max(starts, false)?, Dtype::Float32)? + f64::from(length))?;
                        let longest = maximum(
                            &longest,
                            &Array::scalar_dtype(f64::from(*context), Dtype::Float32)?,
                        )?;
                        let growth = ((longest * (factor / to_f32(*context)))? - (factor - 1.0))?;
                        let exponent = Array::scalar::<f32>(self.dynamic_exponent())?;
                        let base = (power(&growth, &exponent)? * *base)?;
                        self.rotate_by(x, offset, &wavelengths::plain_lazy(&base, self.dims)?, 1.0)
                    }
                }
            }
            Frequencies::Long {
                short,
                long,
                context,
            } => {
                let length = length(x)?;
                let rotate = |(wavelengths, amplification): &(Array, f32)| {
                    self.rotate_by(x, offset, wavelengths, *amplification)
                };
                match offset {
                    Offset::Shared(start) if end(start, length) > *context => rotate(long),
                    Offset::Shared(_) => rotate(short),
                    Offset::Each(starts) => {
                        let limit =
                            Array::scalar_dtype(f64::from(context - length), starts.dtype())?;
                        let mut shape = vec![1; x.ndim()];
                        if let Some(batch) = shape.first_mut() {
                            *batch = -1;
                        }
                        let is_long = reshape(&greater(starts, &limit)?, &shape)?;
                        Ok(r#where(&is_long, &rotate(long)?, &rotate(short)?)?)
                    }
                }
            }
        }
    }

    fn dynamic_exponent(&self) -> f32 {
        to_f32(self.dims) / to_f32(self.dims - 2)
    }

    fn dynamic_base(&self, base: f32, factor: f32, context: i32, longest: i32) -> f32 {
        let growth = factor * to_f32(longest) / to_f32(context) - (factor - 1.0);
        base * growth.powf(self.dynamic_exponent())
    }

    fn rotate_by(
        &self,
        x: &Array,
        offset: Offset<'_>,
        wavelengths: &Array,
        amplification: f32,
    ) -> Result<Array> {
        let options = RopeOptions::default().freqs(wavelengths);
        if amplification == 1.0 {
            return self.rotate(x, offset, options);
        }
        self.rotate(&self.amplify(x, amplification)?, offset, options)
    }

    fn rotate(&self, x: &Array, offset: Offset<'_>, options: RopeOptions<'_>) -> Result<Array> {
        let options = options.traditional(self.traditional);
        Ok(match offset {
            Offset::Shared(start) => fast::rope(x, self.dims, start, options)?,
            Offset::Each(starts) => fast::rope_with_offsets(x, self.dims, starts, options)?,
        })
    }

    /// Multiplies the features that will be rotated.
    fn amplify(&self, x: &Array, amplification: f32) -> Result<Array> {
        if x.shape().last() == Some(&self.dims) {
            return Ok((x * amplification)?);
        }
        let starts = vec![0; x.ndim()];
        let mut stops = x.shape().to_vec();
        if let Some(last) = stops.last_mut() {
            *last = self.dims;
        }
        let rotated = (slice(x, &starts, &stops)? * amplification)?;
        Ok(slice_update(x, &rotated, &starts, &stops)?)
    }
}

fn check(dims: i32, base: f32) -> Result<()> {
    if dims <= 0 || dims % 2 != 0 {
        return Err(Error::invalid(
            "Rope",
            format!("dims must be positive and even, found {dims}"),
        ));
    }
    if !(base > 0.0 && base.is_finite()) {
        return Err(Error::invalid(
            "Rope",
            format!("the base must be positive, found {base}"),
        ));
    }
    Ok(())
}

fn length(x: &Array) -> Result<i32> {
    Ok(x.dim(-2)?)
}

/// Lengths are exact in 32 bits up to 16 million, far beyond any context.
#[expect(clippy::cast_precision_loss, reason = "see above")]
const fn to_f32(length: i32) -> f32 {
    length as f32
}

parameter_free!(Rope, RopeParameters, RopeKind);
