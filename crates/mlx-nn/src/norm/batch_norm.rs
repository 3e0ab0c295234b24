//! Batch normalisation.

use mlx_core::{
    Array,
    ops::{
        arithmetic::rsqrt,
        misc::stop_gradient,
        reduction::{mean_axes, var_axes},
    },
};

use super::{affine, check_eps};
use crate::{Buffer, Error, Module, Result, linear::check_dims};

/// Normalises each feature over batch and positions.
///
/// Keys: `weight`, `bias`, `running_mean` and `running_var`, each `[num_features]`; the last two
/// are not trained. From "Batch Normalization: Accelerating Deep Network Training by Reducing
/// Internal Covariate Shift" (2015).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::BatchNorm;
///
/// let mut norm = BatchNorm::new(4)?;
/// let x = Array::arange::<f32>(0.0, 8.0, 1.0)?.reshape(&[2, 4])?;
/// let y = norm.forward_train(&x)?; // updates the running statistics
/// assert!(y.mean(false)?.item::<f32>()?.abs() < 1e-5);
/// assert_eq!(norm.forward(&x)?.shape(), [2, 4]); // uses them
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct BatchNorm {
    /// The factor of each feature.
    pub weight: Option<Array>,
    /// The offset of each feature.
    pub bias: Option<Array>,
    /// The moving average of the means.
    pub running_mean: Option<Buffer>,
    /// The moving average of the unbiased variances.
    pub running_var: Option<Buffer>,
    eps: f32,
    momentum: f32,
}

impl BatchNorm {
    /// A layer with factors, offsets and running statistics, `eps` 1e-5 and momentum 0.1.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `num_features` is not positive.
    pub fn new(num_features: i32) -> Result<Self> {
        check_dims("BatchNorm", &[num_features])?;
        let (zeros, ones) = (
            Array::zeros::<f32>(&[num_features])?,
            Array::ones::<f32>(&[num_features])?,
        );
        Ok(Self {
            weight: Some(ones.clone()),
            bias: Some(zeros.clone()),
            running_mean: Some(Buffer(zeros)),
            running_var: Some(Buffer(ones)),
            eps: 1e-5,
            momentum: 0.1,
        })
    }

    /// Sets `eps`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not positive.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        check_eps("BatchNorm", eps)?;
        self.eps = eps;
        Ok(self)
    }

    /// Sets by how much a batch moves the running statistics.
    #[must_use]
    pub fn momentum(mut self, momentum: f32) -> Self {
        self.momentum = momentum;
        self
    }

    /// Leaves out factors and offsets.
    #[must_use]
    pub fn without_parameters(mut self) -> Self {
        (self.weight, self.bias) = (None, None);
        self
    }

    /// Leaves out running statistics: every batch is normalised by its own.
    #[must_use]
    pub fn without_running_statistics(mut self) -> Self {
        (self.running_mean, self.running_var) = (None, None);
        self
    }

    /// Normalises `[N, .., C]` by the running statistics, or by its own if there are none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `x` has not two to four axes.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let axes = reduced_axes(x)?;
        match (&self.running_mean, &self.running_var) {
            (Some(mean), Some(variance)) => self.normalize(x, mean, variance),
            _ => self.normalize(
                x,
                &mean_axes(x, &axes, false)?,
                &var_axes(x, &axes, false, 0)?,
            ),
        }
    }

    /// Normalises `[N, .., C]` by its own statistics and moves the running ones towards them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `x` has not two to four axes, or only one value for each
    /// feature.
    pub fn forward_train(&mut self, x: &Array) -> Result<Array> {
        let axes = reduced_axes(x)?;
        if x.shape().iter().rev().skip(1).all(|&dim| dim == 1) {
            let message = "training requires more than one value for each feature";
            return Err(Error::invalid("BatchNorm", message));
        }
        let mean = mean_axes(x, &axes, false)?;
        let variance = var_axes(x, &axes, false, 0)?;
        if let (Some(running_mean), Some(running_var)) =
            (&mut self.running_mean, &mut self.running_var)
        {
            let unbiased = var_axes(x, &axes, false, 1)?;
            for (running, current) in [(running_mean, &mean), (running_var, &unbiased)] {
                let kept = (&running.0 * (1.0 - self.momentum))?;
                running.0 = (kept + stop_gradient(current)? * self.momentum)?;
            }
        }
        self.normalize(x, &mean, &variance)
    }

    fn normalize(&self, x: &Array, mean: &Array, variance: &Array) -> Result<Array> {
        let y = ((x - mean)? * rsqrt(&(variance + self.eps)?))?;
        affine(y, self.weight.as_ref(), self.bias.as_ref())
    }
}

/// All axes but that of the features.
fn reduced_axes(x: &Array) -> Result<Vec<i32>> {
    match x.ndim() {
        2 => Ok(vec![0]),
        3 => Ok(vec![0, 1]),
        4 => Ok(vec![0, 1, 2]),
        n => Err(Error::invalid(
            "BatchNorm",
            format!("expected 2 to 4 axes, found {n}"),
        )),
    }
}
