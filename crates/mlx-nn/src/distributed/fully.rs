//! Modules of which each process keeps a part of every parameter.

use std::collections::BTreeMap;

use mlx_core::{
    Array, Dtype,
    distributed::{Group, all_gather, sum_scatter},
    ops::shape::{concatenate, reshape, split_at},
};
use mlx_transforms::custom_vjp;

use super::{Segments, shard::Replace, shard_with};
use crate::{
    Error, KeyPath, Module, Result, Visitor, VisitorMut, module::parameters::trainable_parameters,
};

/// A module of which each process keeps its rows of every trainable parameter.
///
/// For a pass the whole parameters are gathered, and afterwards forgotten; each process gets the
/// mean over all of them of the gradients of its rows. Optimizer and its state see the rows alone.
/// From "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2019).
///
/// Keys are those of the module, below `module.`.
#[doc(alias = "FullyShardedModule")]
#[derive(Debug, Clone)]
pub struct FullySharded<M> {
    module: M,
    group: Group,
    compute_dtype: Option<Dtype>,
}

impl<M: Module + Clone> FullySharded<M> {
    /// Keeps this process's rows of each parameter of `module`; passes compute in `compute_dtype`
    /// if one is given.
    ///
    /// ```
    /// use mlx_core::{Array, distributed::Group};
    /// use mlx_nn::{Linear, distributed::FullySharded};
    ///
    /// let layer = FullySharded::new(Linear::new(3, 2, true)?, &Group::alone()?, None)?;
    /// let y = layer.run(|whole| whole.forward(&Array::ones::<f32>(&[1, 3])?))?;
    /// assert_eq!(y.shape(), [1, 2]);
    /// # Ok::<(), mlx_nn::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Weight`] if a parameter is a scalar, or its first axis does not divide among the
    /// processes.
    #[doc(alias = "fully_shard")]
    pub fn new(mut module: M, group: &Group, compute_dtype: Option<Dtype>) -> Result<Self> {
        let trained = trainable_parameters(&module);
        let choose =
            |key: &str, _: &Array| trained.contains_key(key).then(|| (0, Segments::default()));
        shard_with(&mut module, choose, group)?;
        Ok(Self {
            module,
            group: group.clone(),
            compute_dtype,
        })
    }

    /// The module with this process's rows.
    pub const fn module(&self) -> &M {
        &self.module
    }

    /// Runs `f` on the module with whole parameters.
    ///
    /// # Errors
    /// What `f` reports; [`Error::Core`] if the processes cannot exchange an array.
    pub fn run<T>(&self, f: impl FnOnce(&M) -> Result<T>) -> Result<T> {
        let (keys, parts): (Vec<_>, Vec<_>) =
            trainable_parameters(&self.module).into_iter().unzip();
        let wholes = gather(&parts, &self.group, self.compute_dtype)?;
        let wholes: BTreeMap<String, Array> = keys.into_iter().zip(wholes).collect();
        let mut module = self.module.clone();
        module.visit_mut(&KeyPath::root(), &mut Replace(wholes))?;
        f(&module)
    }
}

impl<M: Module> Module for FullySharded<M> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.module.visit(&path.child("module"), visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.module.visit_mut(&path.child("module"), visitor)
    }
}

/// The whole arrays of which every process has some rows; the gradient of the rows is the mean of
/// what all processes found for them. One exchange in each direction.
fn gather(parts: &[Array], group: &Group, dtype: Option<Dtype>) -> Result<Vec<Array>> {
    let cast = move |array: &Array| dtype.map_or_else(|| Ok(array.clone()), |to| array.astype(to));
    if group.size() == 1 {
        return Ok(parts
            .iter()
            .map(cast)
            .collect::<mlx_core::Result<Vec<_>>>()?);
    }
    let (forward_group, group) = (group.clone(), group.clone());
    let gathered = custom_vjp(
        move |parts| {
            let size = forward_group.size();
            let flat = parts.iter().map(|part| reshape(&cast(part)?, &[1, -1]));
            let flat: Vec<Array> = flat.collect::<mlx_core::Result<_>>()?;
            let joined = concatenate(&flat.iter().collect::<Vec<_>>(), 1)?;
            let all = all_gather(&joined, &forward_group)?;
            let columns = split_at(&all, &ends(&flat)?, 1)?;
            let wholes = columns.iter().zip(parts).map(|(column, part)| {
                let mut shape = part.shape().to_vec();
                if let Some(rows) = shape.first_mut() {
                    *rows = rows.saturating_mul(size);
                }
                // Joined arrays have one dtype, each part has its own again.
                reshape(column, &shape)?.astype(dtype.unwrap_or(part.dtype()))
            });
            wholes.collect()
        },
        move |parts, cotangents, _| {
            let size = group.size();
            let flat = cotangents
                .iter()
                .map(|cotangent| reshape(cotangent, &[size, -1]));
            let flat: Vec<Array> = flat.collect::<mlx_core::Result<_>>()?;
            let joined = concatenate(&flat.iter().collect::<Vec<_>>(), 1)?;
            let mean = (sum_scatter(&joined, &group)? / f64::from(size))?;
            let rows = split_at(&mean, &ends(&flat)?, 1)?;
            let rows = rows
                .iter()
                .zip(parts)
                .map(|(row, part)| reshape(row, part.shape())?.astype(part.dtype()));
            rows.collect()
        },
    )?;
    gathered(parts).map_err(Error::from)
}

/// Where each of the joined arrays but the last ends along the second axis.
fn ends(flat: &[Array]) -> mlx_core::Result<Vec<i32>> {
    let mut ends = Vec::new();
    let mut end = 0_i32;
    for array in flat {
        end = end.saturating_add(array.dim(1)?);
        ends.push(end);
    }
    ends.pop();
    Ok(ends)
}
