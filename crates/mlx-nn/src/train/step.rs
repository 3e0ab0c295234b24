//! A training step that is compiled once and run often.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    fmt,
    rc::Rc,
};

use mlx_core::{Array, async_eval, distributed::Group, eval, ops::random};

use super::trace::{Layout, Parts, in_order, split_off};
use crate::{
    Error, Gradients, Module, Result,
    distributed::{AverageOptions, average_gradients, mean},
    module::{gradient::buffers, gradient::set_buffers, parameters::parameters, summary::Summary},
    optimizer::Optimize,
    summary, trainable_parameters, update,
};

/// How a [`TrainStep`] works.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct StepOptions {
    /// Whether the step is compiled: traced once for each shape of a batch. On by default.
    pub compile: bool,
    /// Where the random keys of the steps begin.
    pub seed: u64,
    /// The largest absolute value of a number in a gradient, if any; applied before the norm.
    pub clip_value: Option<f64>,
    /// The largest norm of all gradients together, if any.
    pub clip_norm: Option<f64>,
    /// Whether a step returns before it is computed, so that the next one is prepared meanwhile,
    /// and reuses the memory of the arrays that it replaces. A device that fails, for want of
    /// memory for example, then takes the model with it: resume from a checkpoint. Off by default.
    pub pipelined: bool,
    /// The processes that train together, each on its part of the batch. Loss and gradients are
    /// averaged over them; none by default.
    pub group: Option<Group>,
    /// How the gradients are exchanged.
    pub average: AverageOptions,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            compile: true,
            seed: 0,
            clip_value: None,
            clip_norm: None,
            pipelined: false,
            group: None,
            average: AverageOptions::default(),
        }
    }
}

impl StepOptions {
    /// Sets whether the step is compiled.
    pub const fn compile(mut self, compile: bool) -> Self {
        self.compile = compile;
        self
    }

    /// Sets where the random keys begin.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the largest absolute value of a number in a gradient.
    pub const fn clip_value(mut self, value: f64) -> Self {
        self.clip_value = Some(value);
        self
    }

    /// Sets the largest norm of all gradients together.
    pub const fn clip_norm(mut self, norm: f64) -> Self {
        self.clip_norm = Some(norm);
        self
    }

    /// Sets whether a step returns before it is computed.
    pub const fn pipelined(mut self, pipelined: bool) -> Self {
        self.pipelined = pipelined;
        self
    }

    /// Sets the processes that train together. All must start from the same weights, take the
    /// same steps, and give parts of the same size.
    pub fn group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self
    }

    /// Sets how gradients are exchanged.
    pub const fn average(mut self, options: AverageOptions) -> Self {
        self.average = options;
        self
    }
}

type Function = Box<dyn Fn(&[Array]) -> mlx_core::Result<Vec<Array>>>;
type Average = Box<dyn Fn(Gradients) -> Result<Gradients>>;

/// A model, its optimizer and its loss as one compiled training step.
///
/// Parameters, optimizer state and random key are inputs and outputs of the compiled function, so
/// nothing is baked into it: arrays may be replaced between steps, and a checkpoint is all of
/// [`state`](Self::state). An error or a panic in the loss leaves model and optimizer as they were.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{
///     Linear,
///     loss::{Reduction, mse_loss},
///     optimizer::{Optimizer, Sgd},
///     train::{StepOptions, TrainStep},
/// };
///
/// let optimizer = Optimizer::new(Sgd::default(), 0.1)?;
/// let mut step = TrainStep::new(Linear::new(2, 1, true)?, optimizer, StepOptions::default(), |model, xs, _| {
///     mse_loss(&model.forward(&xs[0])?, &xs[1], Reduction::Mean)
/// })?;
/// let batch = [Array::ones::<f32>(&[4, 2])?, Array::zeros::<f32>(&[4, 1])?];
/// let first = step.step(&batch)?.item::<f32>()?;
/// let second = step.step(&batch)?.item::<f32>()?;
/// assert!(second < first);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
pub struct TrainStep<M, O> {
    parts: Rc<Parts<M, O>>,
    options: StepOptions,
    frozen: BTreeSet<String>,
    key: Array,
    average: Option<Average>,
    compiled: Option<Compiled>,
}

struct Compiled {
    layout: Layout,
    step: Function,
    gradients: Function,
    apply: Function,
}

/// One of the functions of [`Parts`], as it is compiled.
type Pass<M, O> = fn(&Rc<Parts<M, O>>, &Layout, &[Array]) -> Result<Vec<Array>>;

impl<M, O> fmt::Debug for TrainStep<M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainStep")
            .field("options", &self.options)
            .field("frozen", &self.frozen.len())
            .finish_non_exhaustive()
    }
}

impl<M: Module + 'static, O: Optimize + 'static> TrainStep<M, O> {
    /// A step that minimises `loss`, a function of the model, a batch and a random key for what
    /// is random in the step, such as [`Dropout`](crate::Dropout).
    ///
    /// `loss` is traced: it must not evaluate arrays, and its other side effects happen once.
    ///
    /// # Errors
    /// [`Error::Core`] if the random key cannot be made.
    pub fn new(
        model: M,
        optimizer: O,
        options: StepOptions,
        loss: impl Fn(&mut M, &[Array], &Array) -> Result<Array> + 'static,
    ) -> Result<Self> {
        let key = random::key(options.seed)?;
        let together = options.group.clone().filter(|group| group.size() > 1);
        let average = together.map(|group| -> Average {
            let how = options.average;
            Box::new(move |gradients| average_gradients(&gradients, &group, how))
        });
        let parts = Parts {
            model: RefCell::new(model),
            optimizer: RefCell::new(optimizer),
            loss: Box::new(loss),
            clip_value: options.clip_value,
            clip_norm: options.clip_norm,
        };
        Ok(Self {
            parts: Rc::new(parts),
            options,
            frozen: BTreeSet::new(),
            key,
            average,
            compiled: None,
        })
    }

    /// The model.
    pub fn model(&self) -> Ref<'_, M> {
        self.parts.model.borrow()
    }

    /// The model, for changes between steps.
    pub fn model_mut(&mut self) -> RefMut<'_, M> {
        self.parts.model.borrow_mut()
    }

    /// The optimizer, for changes between steps. With a new schedule the next step is traced
    /// again; another constant rate is only another number.
    pub fn optimizer_mut(&mut self) -> RefMut<'_, O> {
        self.parts.optimizer.borrow_mut()
    }

    /// Forgets the compiled functions; the next step traces them again.
    pub fn recompile(&mut self) {
        self.compiled = None;
    }

    /// Stops training the parameters whose key fulfils `predicate`; returns how many do. None is
    /// usually a slip in the predicate.
    pub fn freeze(&mut self, predicate: impl Fn(&str) -> bool) -> usize {
        let keys = trainable_parameters(&*self.model()).into_keys();
        let chosen: Vec<String> = keys.filter(|key| predicate(key)).collect();
        let count = chosen.len();
        self.frozen.extend(chosen);
        count
    }

    /// Trains the parameters whose key fulfils `predicate` again; returns how many were frozen.
    pub fn unfreeze(&mut self, predicate: impl Fn(&str) -> bool) -> usize {
        let before = self.frozen.len();
        self.frozen.retain(|key| !predicate(key));
        before - self.frozen.len()
    }

    /// The parameters that a step changes: those that are trainable and not
    /// [frozen](Self::freeze).
    pub fn trained_parameters(&self) -> BTreeMap<String, Array> {
        let mut trained = trainable_parameters(&*self.model());
        trained.retain(|key, _| !self.frozen.contains(key));
        trained
    }

    /// The [`summary`](crate::summary()) of the model, in which frozen parameters are not
    /// trainable.
    pub fn summary(&self) -> Summary {
        let mut table = summary(&*self.model());
        for row in &mut table.rows {
            row.trainable &= !self.frozen.contains(&row.key);
        }
        table
    }

    /// Where the random keys began.
    pub(super) const fn seed(&self) -> u64 {
        self.options.seed
    }

    /// The processes that train together, if there are several.
    pub fn group(&self) -> Option<&Group> {
        self.options.group.as_ref().filter(|group| group.size() > 1)
    }

    /// Passes the gradients of every step through `average` before they are used, instead of the
    /// mean over the group if there is one. It may evaluate: it is not compiled.
    pub fn average_with(&mut self, average: impl Fn(Gradients) -> Result<Gradients> + 'static) {
        self.average = Some(Box::new(average));
    }

    /// Takes one step on one batch and returns the loss before it.
    ///
    /// # Errors
    /// What the loss or the optimizer report; model and optimizer are then as before, unless a
    /// [pipelined](StepOptions::pipelined) step fails while it is computed.
    pub fn step(&mut self, batch: &[Array]) -> Result<Array> {
        if self.average.is_some() {
            return self.accumulate([batch]);
        }
        let compiled = self.prepare()?;
        let mut inputs = self.model_inputs(&compiled.layout)?;
        inputs.extend(self.state_inputs(&compiled.layout)?);
        inputs.extend_from_slice(batch);
        let outputs = (compiled.step)(&inputs);
        drop(inputs);
        let result = outputs
            .map_err(Error::from)
            .and_then(|outputs| self.take_over(&compiled.layout, &outputs));
        self.compiled = Some(compiled);
        result
    }

    /// Takes one step on the mean gradient of several batches of equal weight, of which only one
    /// is in memory at a time, and returns their mean loss.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`Error::InvalidArgument`] if there is no batch.
    pub fn accumulate<B: AsRef<[Array]>>(
        &mut self,
        batches: impl IntoIterator<Item = B>,
    ) -> Result<Array> {
        let compiled = self.prepare()?;
        let result = self.accumulate_with(&compiled, batches);
        self.compiled = Some(compiled);
        result
    }

    fn accumulate_with<B: AsRef<[Array]>>(
        &mut self,
        compiled: &Compiled,
        batches: impl IntoIterator<Item = B>,
    ) -> Result<Array> {
        let layout = &compiled.layout;
        let model = self.model_inputs(layout)?;
        let (fixed, _) = split_off(&model, layout.trained.len())?;
        let mut others = model
            .get(layout.trained.len()..)
            .unwrap_or_default()
            .to_vec();
        let mut sums: Option<Vec<Array>> = None;
        let mut count = 0.0_f64;
        for batch in batches {
            let outputs = (compiled.gradients)(&[fixed, &others, batch.as_ref()].concat())?;
            let (loss, rest) = split_off(&outputs, 1)?;
            let (key, rest) = split_off(rest, 1)?;
            let (after, gradients) = split_off(rest, layout.buffers.len())?;
            for (name, array) in layout.buffers.iter().zip(after) {
                let place = layout.others.iter().position(|other| other == name);
                if let Some(place) = place.and_then(|place| others.get_mut(place)) {
                    *place = array.clone();
                }
            }
            if let (Some(place), Some(key)) = (others.last_mut(), key.first()) {
                *place = key.clone();
            }
            let new = loss.iter().chain(gradients);
            let sum: Vec<Array> = match &sums {
                None => new.cloned().collect(),
                Some(old) => old
                    .iter()
                    .zip(new)
                    .map(|(old, new)| old + new)
                    .collect::<mlx_core::Result<_>>()?,
            };
            // One batch at a time: its activations are freed before the next one's are made.
            eval(&sum.iter().collect::<Vec<_>>())?;
            sums = Some(sum);
            count += 1.0;
        }
        let Some(sums) = sums else {
            return Err(Error::invalid("TrainStep", "there is no batch"));
        };
        let means: Vec<Array> = sums
            .iter()
            .map(|sum| sum / count)
            .collect::<mlx_core::Result<_>>()?;
        let (loss, gradients) = split_off(&means, 1)?;
        let loss = loss
            .iter()
            .map(|loss| mean(loss, self.group()))
            .collect::<Result<Vec<_>>>()?;
        let mut gradients = gradients.to_vec();
        if let Some(average) = &self.average {
            let named = layout.trained.iter().cloned().zip(gradients).collect();
            gradients = in_order(&layout.trained, &average(named)?)?;
        }
        let state = self.state_inputs(layout)?;
        let changed = (compiled.apply)(&[fixed, &state, &gradients].concat())?;
        let key = others.pop().unwrap_or_else(|| self.key.clone());
        let buffers = layout.buffers.iter().map(|name| {
            let place = layout.others.iter().position(|other| other == name);
            place
                .and_then(|place| others.get(place).cloned())
                .ok_or_else(|| Error::weight(name, "vanished during a step"))
        });
        let buffers: Vec<Array> = buffers.collect::<Result<_>>()?;
        self.take_over(
            layout,
            &[loss.as_slice(), &[key], &buffers, &changed].concat(),
        )
    }

    /// Everything besides the model that a checkpoint must hold: the optimizer's state below
    /// `optimizer.`, and the random key as `key`.
    pub fn state(&self) -> BTreeMap<String, Array> {
        let optimizer = self.parts.optimizer.borrow().state();
        let named = optimizer
            .into_iter()
            .map(|(name, array)| (format!("optimizer.{name}"), array));
        named
            .chain([("key".to_owned(), self.key.clone())])
            .collect()
    }

    /// Takes up what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// [`Error::Weight`] if a name is not understood or missing, or an array does not fit the
    /// parameter that it belongs to; the state is as before then.
    pub fn set_state(&mut self, mut state: BTreeMap<String, Array>) -> Result<()> {
        let key = state
            .remove("key")
            .ok_or_else(|| Error::weight("key", "missing in the state"))?;
        let strip = |(name, array): (String, Array)| match name.strip_prefix("optimizer.") {
            Some(rest) => Ok((rest.to_owned(), array)),
            None => Err(Error::weight(name, "belongs to no part of the state")),
        };
        let state = state.into_iter().map(strip).collect::<Result<_>>()?;
        if key.shape() != self.key.shape() || key.dtype() != self.key.dtype() {
            return Err(Error::weight("key", "is no random key"));
        }
        let trained = self.trained_parameters();
        let mut optimizer = self.parts.optimizer.borrow_mut();
        let before = optimizer.state();
        // An optimizer that knows its parameters knows what their state must look like.
        if let Err(error) = optimizer
            .init(&trained)
            .and_then(|()| optimizer.set_state(state))
        {
            // It takes back the state that it gave.
            optimizer.set_state(before)?;
            return Err(error);
        }
        self.key = key;
        Ok(())
    }

    /// Ends training and returns the model.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a traced function still holds the model.
    pub fn into_model(mut self) -> Result<M> {
        self.compiled = None;
        match Rc::try_unwrap(self.parts) {
            Ok(parts) => Ok(parts.model.into_inner()),
            Err(_) => Err(Error::invalid("TrainStep", "the model is still in use")),
        }
    }

    /// The compiled functions for the model as it is, made anew if its arrays have other names.
    fn prepare(&mut self) -> Result<Compiled> {
        let layout = self.layout()?;
        if let Some(compiled) = self.compiled.take()
            && compiled.layout == layout
        {
            return Ok(compiled);
        }
        let make = |run: Pass<M, O>| {
            let (parts, layout) = (Rc::clone(&self.parts), layout.clone());
            let f = move |xs: &[Array]| -> mlx_core::Result<Vec<Array>> {
                Ok(run(&parts, &layout, xs)?)
            };
            Ok::<Function, Error>(if self.options.compile {
                Box::new(mlx_transforms::compile(f, false)?)
            } else {
                Box::new(f)
            })
        };
        Ok(Compiled {
            step: make(Parts::step)?,
            gradients: make(Parts::gradients)?,
            apply: make(|parts, layout, xs| parts.apply(layout, xs))?,
            layout,
        })
    }

    fn layout(&self) -> Result<Layout> {
        let trained = self.trained_parameters();
        let model = self.parts.model.borrow();
        if trained.is_empty() {
            return Err(Error::invalid(
                "TrainStep",
                "there is no trainable parameter",
            ));
        }
        let mut optimizer = self.parts.optimizer.borrow_mut();
        let mut state = optimizer.state();
        // What is there already is kept, so that this runs in full only for new parameters.
        optimizer.init(&trained)?;
        let prepared = optimizer.state();
        if prepared.len() != state.len() {
            state = prepared;
        }
        let others = parameters(&*model).into_keys();
        Ok(Layout {
            others: others.filter(|key| !trained.contains_key(key)).collect(),
            trained: trained.into_keys().collect(),
            buffers: buffers(&*model).into_keys().collect(),
            state: state.into_keys().collect(),
            revision: optimizer.revision(),
        })
    }

    /// `[trained, others, key]`
    fn model_inputs(&self, layout: &Layout) -> Result<Vec<Array>> {
        let arrays = parameters(&*self.parts.model.borrow());
        let mut inputs = in_order(&layout.trained, &arrays)?;
        inputs.extend(in_order(&layout.others, &arrays)?);
        inputs.push(self.key.clone());
        Ok(inputs)
    }

    fn state_inputs(&self, layout: &Layout) -> Result<Vec<Array>> {
        in_order(&layout.state, &self.parts.optimizer.borrow().state())
    }

    /// Puts `[loss, key, buffers, trained, state]` in place and returns the loss.
    fn take_over(&mut self, layout: &Layout, outputs: &[Array]) -> Result<Array> {
        if !self.options.pipelined {
            eval(&outputs.iter().collect::<Vec<_>>())?;
        }
        let (loss, rest) = split_off(outputs, 1)?;
        let (key, rest) = split_off(rest, 1)?;
        let (after, rest) = split_off(rest, layout.buffers.len())?;
        let (trained, state) = split_off(rest, layout.trained.len())?;
        let ([loss], [key]) = (loss, key) else {
            return Err(Error::invalid("TrainStep", "the loss has no value"));
        };
        let named = |names: &[String], arrays: &[Array]| -> BTreeMap<String, Array> {
            names.iter().cloned().zip(arrays.iter().cloned()).collect()
        };
        let mut model = self.parts.model.borrow_mut();
        update(&mut *model, named(&layout.trained, trained))?;
        set_buffers(&mut *model, named(&layout.buffers, after))?;
        self.parts
            .optimizer
            .borrow_mut()
            .set_state(named(&layout.state, state))?;
        self.key = key.clone();
        if self.options.pipelined {
            async_eval(&outputs.iter().collect::<Vec<_>>())?;
        }
        Ok(loss.clone())
    }
}
