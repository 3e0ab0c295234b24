//! One training step as a pure function of arrays.

use std::{
    cell::{RefCell, RefMut},
    collections::BTreeMap,
    rc::Rc,
};

use mlx_core::{Array, ops::random::split};

use crate::{
    Error, Gradients, Module, Result,
    module::gradient::buffers,
    optimizer::{Optimize, clip_grad_norm, clip_grad_value},
    with_arrays,
};

/// A loss of the model, the batch and a random key.
pub(super) type Loss<M> = Box<dyn Fn(&mut M, &[Array], &Array) -> Result<Array>>;

/// What the traced functions share with the [`TrainStep`](super::TrainStep) that owns them.
pub(super) struct Parts<M, O> {
    pub(super) model: RefCell<M>,
    pub(super) optimizer: RefCell<O>,
    pub(super) loss: Loss<M>,
    pub(super) clip_value: Option<f64>,
    pub(super) clip_norm: Option<f64>,
}

/// The names behind the positions of the traced function's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Parameters that are trained.
    pub(super) trained: Vec<String>,
    /// All other arrays of the model.
    pub(super) others: Vec<String>,
    /// Arrays that the function may change besides: running statistics.
    pub(super) buffers: Vec<String>,
    /// The optimizer's state.
    pub(super) state: Vec<String>,
    /// What else is in the trace: the optimizer's rule and schedule.
    pub(super) revision: u64,
}

/// Arrays in the order of their names.
pub(super) fn in_order(names: &[String], arrays: &BTreeMap<String, Array>) -> Result<Vec<Array>> {
    let find = |name: &String| {
        let found = arrays.get(name).cloned();
        found.ok_or_else(|| Error::weight(name, "vanished between two steps"))
    };
    names.iter().map(find).collect()
}

/// The first `count` arrays, and the others.
pub(super) fn split_off(arrays: &[Array], count: usize) -> Result<(&[Array], &[Array])> {
    arrays
        .split_at_checked(count)
        .ok_or_else(|| Error::invalid("TrainStep", "the compiled step lost an array"))
}

fn named(names: &[String], arrays: &[Array]) -> BTreeMap<String, Array> {
    names.iter().cloned().zip(arrays.iter().cloned()).collect()
}

fn borrow<T>(cell: &RefCell<T>) -> Result<RefMut<'_, T>> {
    cell.try_borrow_mut()
        .map_err(|_| Error::invalid("TrainStep", "the model or optimizer is in use"))
}

impl<M: Module + 'static, O: Optimize + 'static> Parts<M, O> {
    /// `[trained, others, key, batch] → [loss, next key, buffers, gradients]`
    pub(super) fn gradients(
        self: &Rc<Self>,
        layout: &Layout,
        inputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (parts, names) = (Rc::clone(self), layout.clone());
        let key_at = layout.trained.len() + layout.others.len();
        let Some(key) = inputs.get(key_at) else {
            return Err(Error::invalid(
                "TrainStep",
                "the compiled step lost its key",
            ));
        };
        let (next, key) = split(key)?;
        let traced = move |xs: &[Array]| -> mlx_core::Result<Vec<Array>> {
            let (trained, rest) = split_off(xs, names.trained.len())?;
            let (others, rest) = split_off(rest, names.others.len())?;
            let (key, batch) = split_off(rest, 1)?;
            let mut arrays = named(&names.trained, trained);
            arrays.extend(named(&names.others, others));
            let mut model = borrow(&parts.model)?;
            let outputs = with_arrays(&mut *model, arrays, |model| {
                let key = key
                    .first()
                    .ok_or_else(|| Error::invalid("TrainStep", "no random key"))?;
                let loss = (parts.loss)(model, batch, key)?;
                let after = in_order(&names.buffers, &buffers(model))?;
                Ok(std::iter::once(loss).chain(after).collect())
            })?;
            Ok(outputs)
        };
        let positions: Vec<i32> = (0..).take(layout.trained.len()).collect();
        let mut primals = inputs.to_vec();
        if let Some(place) = primals.get_mut(key_at) {
            *place = key;
        }
        let (values, gradients) = mlx_transforms::value_and_grad(traced, &positions)?(&primals)?;
        let (loss, buffers) = split_off(&values, 1)?;
        Ok([loss, &[next], buffers, &gradients].concat())
    }

    /// `[trained, state, gradients] → [trained, state]`
    pub(super) fn apply(&self, layout: &Layout, inputs: &[Array]) -> Result<Vec<Array>> {
        let (trained, rest) = split_off(inputs, layout.trained.len())?;
        let (state, gradients) = split_off(rest, layout.state.len())?;
        let mut gradients: Gradients = named(&layout.trained, gradients);
        if let Some(max_value) = self.clip_value {
            gradients = clip_grad_value(&gradients, max_value)?;
        }
        if let Some(max_norm) = self.clip_norm {
            gradients = clip_grad_norm(&gradients, max_norm)?.0;
        }
        let mut optimizer = borrow(&self.optimizer)?;
        let guard = RestoreState {
            before: optimizer.state(),
            optimizer: &mut *optimizer,
        };
        guard.optimizer.set_state(named(&layout.state, state))?;
        let changed = guard
            .optimizer
            .apply(&gradients, &named(&layout.trained, trained))?;
        let mut outputs = in_order(&layout.trained, &changed)?;
        outputs.extend(in_order(&layout.state, &guard.optimizer.state())?);
        Ok(outputs)
    }

    /// `[trained, others, key, state, batch] → [loss, next key, buffers, trained, state]`
    pub(super) fn step(self: &Rc<Self>, layout: &Layout, inputs: &[Array]) -> Result<Vec<Array>> {
        let (model, rest) = split_off(inputs, layout.trained.len() + layout.others.len() + 1)?;
        let (state, batch) = split_off(rest, layout.state.len())?;
        let outputs = self.gradients(layout, &[model, batch].concat())?;
        let (kept, gradients) = split_off(&outputs, 2 + layout.buffers.len())?;
        let (trained, _) = split_off(model, layout.trained.len())?;
        let changed = self.apply(layout, &[trained, state, gradients].concat())?;
        Ok([kept, &changed].concat())
    }
}

struct RestoreState<'o, O: Optimize> {
    optimizer: &'o mut O,
    before: BTreeMap<String, Array>,
}

impl<O: Optimize> Drop for RestoreState<'_, O> {
    fn drop(&mut self) {
        // An optimizer takes back the state that it gave.
        let _ = self.optimizer.set_state(std::mem::take(&mut self.before));
    }
}
