//! Gradients of all processes together.

use mlx_core::{
    Array, Dtype,
    distributed::{Group, all_sum},
    ops::{
        arithmetic::{divide, minimum, sqrt, square},
        reduction::sum,
        shape::{concatenate, reshape, split_at},
    },
};

use crate::{Error, Gradients, Result};

/// How [`average_gradients`] exchanges arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct AverageOptions {
    /// Arrays are joined until they have at least this many bytes, as one large message is faster
    /// than many small ones; zero sends each by itself. 32 MiB by default.
    pub all_reduce_size: usize,
    /// What is sent, if it is not to be the gradients' own dtype: half precision halves the
    /// traffic. The averages have the gradients' dtype again.
    pub communication_type: Option<Dtype>,
}

impl Default for AverageOptions {
    fn default() -> Self {
        Self {
            all_reduce_size: 32 << 20,
            communication_type: None,
        }
    }
}

impl AverageOptions {
    /// Sets how many bytes are sent together.
    pub const fn all_reduce_size(mut self, bytes: usize) -> Self {
        self.all_reduce_size = bytes;
        self
    }

    /// Sets what is sent.
    pub const fn communication_type(mut self, dtype: Option<Dtype>) -> Self {
        self.communication_type = dtype;
        self
    }
}

/// The mean of each gradient over the processes of `group`, which all have the same keys and
/// shapes. Lazy; gradients of different dtypes are sent one by one.
///
/// ```
/// use mlx_core::{Array, distributed::Group};
/// use mlx_nn::distributed::{AverageOptions, average_gradients};
///
/// let gradients = [("w".to_owned(), Array::ones::<f32>(&[3])?)].into();
/// let group = Group::alone()?;
/// let mean = average_gradients(&gradients, &group, AverageOptions::default())?;
/// assert_eq!(mean["w"].to_vec::<f32>()?, [1.0; 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the communication type is not floating point; [`Error::Core`] if
/// the processes cannot exchange an array.
pub fn average_gradients(
    gradients: &Gradients,
    group: &Group,
    options: AverageOptions,
) -> Result<Gradients> {
    if let Some(dtype) = options.communication_type
        && !matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
    {
        let message = format!("gradients cannot be sent as {dtype}");
        return Err(Error::invalid("average_gradients", message));
    }
    if group.size() == 1 || gradients.is_empty() {
        return Ok(gradients.clone());
    }
    let mean = |array: &Array| -> Result<Array> {
        let sent = match options.communication_type {
            Some(dtype) => array.astype(dtype)?,
            None => array.clone(),
        };
        let sum = all_sum(&sent, group)?.astype(array.dtype())?;
        Ok((sum / f64::from(group.size()))?)
    };
    let first = gradients.values().next().map(Array::dtype);
    let alike = gradients
        .values()
        .all(|gradient| Some(gradient.dtype()) == first);
    if options.all_reduce_size == 0 || !alike {
        let one = |(key, array): (&String, &Array)| Ok((key.clone(), mean(array)?));
        return gradients.iter().map(one).collect();
    }
    let mut averaged = Gradients::new();
    let mut waiting: Vec<(&String, &Array)> = Vec::new();
    let mut bytes = 0;
    for (index, entry) in gradients.iter().enumerate() {
        bytes += entry.1.nbytes();
        waiting.push(entry);
        if bytes < options.all_reduce_size && index + 1 < gradients.len() {
            continue;
        }
        let flat = waiting
            .iter()
            .map(|(_, array)| Ok(reshape(array, &[-1])?))
            .collect::<Result<Vec<_>>>()?;
        let joined = mean(&concatenate(&flat.iter().collect::<Vec<_>>(), 0)?)?;
        let mut ends = Vec::new();
        let mut end = 0_i32;
        for array in &flat {
            end = end.saturating_add(array.dim(0)?);
            ends.push(end);
        }
        ends.pop();
        for ((key, array), part) in waiting.drain(..).zip(split_at(&joined, &ends, 0)?) {
            averaged.insert(key.clone(), reshape(&part, array.shape())?);
        }
        bytes = 0;
    }
    Ok(averaged)
}

/// Limits the length of gradients of which each process holds a part, all together; returns them
/// and their length before.
///
/// # Errors
/// [`Error::InvalidArgument`] if `max_norm` is negative.
pub fn clip_grad_norm_sharded(
    gradients: &Gradients,
    max_norm: f64,
    group: &Group,
) -> Result<(Gradients, Array)> {
    if max_norm.is_nan() || max_norm < 0.0 {
        let message = format!("max_norm must not be negative, found {max_norm}");
        return Err(Error::invalid("clip_grad_norm_sharded", message));
    }
    let mut squares = Array::scalar::<f32>(0.0)?;
    for gradient in gradients.values() {
        squares = (squares + sum(&square(&gradient.astype(Dtype::Float32)?)?, false)?)?;
    }
    let norm = sqrt(&all_sum(&squares, group)?)?;
    let limit = Array::scalar_dtype(max_norm, Dtype::Float32)?;
    let ratio = divide(&limit, &(&norm + 1e-6_f64)?)?;
    let factor = minimum(&ratio, &Array::scalar::<f32>(1.0)?)?;
    let scale = |(key, gradient): (&String, &Array)| -> Result<(String, Array)> {
        Ok((key.clone(), (gradient * &factor)?.astype(gradient.dtype())?))
    };
    Ok((gradients.iter().map(scale).collect::<Result<_>>()?, norm))
}
