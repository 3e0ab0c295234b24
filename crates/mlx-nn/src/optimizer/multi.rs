//! Different rules for different parameters.

use std::{collections::BTreeMap, fmt};

use mlx_core::Array;

use super::{Optimize, Schedule, parameter_of};
use crate::{Error, Gradients, Result};

/// Decides by key and gradient whether an optimizer takes a parameter.
type Filter = Box<dyn Fn(&str, &Array) -> bool + Send + Sync>;

/// Gives each parameter to the first optimizer whose filter takes it, and the rest to the last.
///
/// ```
/// use mlx_nn::optimizer::{AdamW, MultiOptimizer, Muon, Optimizer};
///
/// let optimizer = MultiOptimizer::new(Optimizer::new(AdamW::default(), 1e-3)?)
///     .with(Optimizer::new(Muon::default(), 2e-2)?, |_, gradient| gradient.ndim() == 2);
/// # let _ = optimizer;
/// # Ok::<(), mlx_nn::Error>(())
/// ```
pub struct MultiOptimizer {
    filtered: Vec<(Filter, Box<dyn Optimize>)>,
    rest: Box<dyn Optimize>,
}

impl MultiOptimizer {
    /// All parameters go to `rest`.
    #[must_use]
    pub fn new(rest: impl Optimize + 'static) -> Self {
        Self {
            filtered: Vec::new(),
            rest: Box::new(rest),
        }
    }

    /// Parameters that no earlier filter takes, and this one does, go to `optimizer`.
    #[must_use]
    pub fn with(
        mut self,
        optimizer: impl Optimize + 'static,
        filter: impl Fn(&str, &Array) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filtered.push((Box::new(filter), Box::new(optimizer)));
        self
    }

    fn optimizers(&self) -> impl Iterator<Item = &dyn Optimize> {
        self.filtered
            .iter()
            .map(|(_, optimizer)| optimizer.as_ref())
            .chain([self.rest.as_ref()])
    }

    fn optimizers_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Optimize>> {
        self.filtered
            .iter_mut()
            .map(|(_, optimizer)| optimizer)
            .chain([&mut self.rest])
    }

    /// Runs `f` on all optimizers; where it fails, they get back the state that they had, in
    /// which those before the failing one would else be ahead of the others.
    fn all_or_none<T>(
        &mut self,
        f: impl FnOnce(&mut dyn Iterator<Item = &mut Box<dyn Optimize>>) -> Result<T>,
    ) -> Result<T> {
        let before: Vec<_> = self.optimizers().map(Optimize::state).collect();
        let result = f(&mut self.optimizers_mut());
        if result.is_err() {
            for (optimizer, before) in self.optimizers_mut().zip(before) {
                // An optimizer takes back the state that it gave.
                optimizer.set_state(before)?;
            }
        }
        result
    }

    /// The arrays that fall to each optimizer.
    fn parts(&self, arrays: &Gradients) -> Vec<Gradients> {
        let mut parts = vec![Gradients::new(); self.filtered.len() + 1];
        for (key, array) in arrays {
            let taker = self
                .filtered
                .iter()
                .position(|(filter, _)| filter(key, array));
            if let Some(part) = parts.get_mut(taker.unwrap_or(self.filtered.len())) {
                part.insert(key.clone(), array.clone());
            }
        }
        parts
    }
}

impl fmt::Debug for MultiOptimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MultiOptimizer({} optimizers)", self.filtered.len() + 1)
    }
}

impl Optimize for MultiOptimizer {
    fn init(&mut self, parameters: &Gradients) -> Result<()> {
        let parts = self.parts(parameters);
        self.all_or_none(|optimizers| {
            optimizers
                .zip(&parts)
                .try_for_each(|(optimizer, part)| optimizer.init(part))
        })
    }

    fn apply(&mut self, gradients: &Gradients, parameters: &Gradients) -> Result<Gradients> {
        for (key, gradient) in gradients {
            parameter_of(key, gradient, parameters)?;
        }
        let parts = self.parts(gradients);
        self.all_or_none(|optimizers| {
            let mut changed = Gradients::new();
            for (optimizer, part) in optimizers.zip(&parts) {
                changed.extend(optimizer.apply(part, parameters)?);
            }
            Ok(changed)
        })
    }

    fn state(&self) -> BTreeMap<String, Array> {
        let numbered = self
            .optimizers()
            .enumerate()
            .flat_map(|(index, optimizer)| {
                optimizer
                    .state()
                    .into_iter()
                    .map(move |(key, array)| (format!("states.{index}.{key}"), array))
            });
        numbered.collect()
    }

    fn set_state(&mut self, state: BTreeMap<String, Array>) -> Result<()> {
        let mut parts = vec![BTreeMap::new(); self.filtered.len() + 1];
        for (key, array) in state {
            let numbered = key
                .strip_prefix("states.")
                .and_then(|rest| rest.split_once('.'));
            let part = numbered.and_then(|(index, name)| {
                Some((parts.get_mut(index.parse::<usize>().ok()?)?, name))
            });
            match part {
                Some((part, name)) => part.insert(name.to_owned(), array),
                None => return Err(Error::weight(key, "belongs to no optimizer")),
            };
        }
        self.all_or_none(|optimizers| {
            optimizers
                .zip(parts)
                .try_for_each(|(optimizer, part)| optimizer.set_state(part))
        })
    }

    fn learning_rate(&self) -> &Array {
        match self.filtered.first() {
            Some((_, first)) => first.learning_rate(),
            None => self.rest.learning_rate(),
        }
    }

    fn set_learning_rate(&mut self, learning_rate: Schedule) -> Result<()> {
        // A schedule that one of them can compute, all can.
        self.optimizers_mut()
            .try_for_each(|optimizer| optimizer.set_learning_rate(learning_rate.clone()))
    }

    fn revision(&self) -> u64 {
        // Every number is given once and later ones are larger, so the largest changes with each.
        self.optimizers().map(Optimize::revision).max().unwrap_or(0)
    }
}
