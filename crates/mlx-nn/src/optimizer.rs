//! Optimizers: a rule for one parameter, driven over all of them.
//!
//! An [`Optimizer`] keeps the step, the learning rate and the state of each parameter; the rules
//! ([`Sgd`], [`AdamW`], …) say how one gradient changes one parameter.

mod adadelta;
mod adafactor;
mod adagrad;
mod adam;
mod clip;
mod lion;
mod multi;
mod muon;
mod rmsprop;
mod schedule;
mod sgd;
mod state;

use std::collections::BTreeMap;

use mlx_core::{Array, Dtype};

pub use adadelta::AdaDelta;
pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW, Adamax};
pub use clip::{clip_grad_norm, clip_grad_value};
pub use lion::Lion;
pub use multi::MultiOptimizer;
pub use muon::Muon;
pub use rmsprop::RmsProp;
pub use schedule::{CustomSchedule, Schedule};
pub use sgd::Sgd;

use state::{Kept, check, next_revision, parse, take_up};

use crate::{
    Error, Gradients, Module, Result,
    module::parameters::{parameters, update},
};

/// The arrays that a rule keeps for one parameter, by name.
pub type Slots = BTreeMap<&'static str, Array>;

impl Optimize for Box<dyn Optimize> {
    fn apply(&mut self, gradients: &Gradients, parameters: &Gradients) -> Result<Gradients> {
        self.as_mut().apply(gradients, parameters)
    }

    fn init(&mut self, parameters: &Gradients) -> Result<()> {
        self.as_mut().init(parameters)
    }

    fn state(&self) -> BTreeMap<String, Array> {
        self.as_ref().state()
    }

    fn set_state(&mut self, state: BTreeMap<String, Array>) -> Result<()> {
        self.as_mut().set_state(state)
    }

    fn learning_rate(&self) -> &Array {
        self.as_ref().learning_rate()
    }

    fn set_learning_rate(&mut self, learning_rate: Schedule) -> Result<()> {
        self.as_mut().set_learning_rate(learning_rate)
    }

    fn revision(&self) -> u64 {
        self.as_ref().revision()
    }
}

/// How one gradient changes one parameter.
///
/// ```
/// use mlx_core::{Array, ops::arithmetic::sign};
/// use mlx_nn::{Result, optimizer::{Optimizer, Rule, Update}};
///
/// /// Steps by the sign of the gradient alone.
/// #[derive(Debug)]
/// struct Signed;
///
/// impl Rule for Signed {
///     fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
///         Ok((update.parameter - update.rate()? * sign(update.gradient)?)?)
///     }
/// }
///
/// let optimizer = Optimizer::new(Signed, 0.1)?;
/// # let _ = optimizer;
/// # Ok::<(), mlx_nn::Error>(())
/// ```
pub trait Rule: std::fmt::Debug + Send + Sync {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one is out of range.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The names of the arrays that are kept for each parameter; zeros of its shape at first.
    fn slots(&self) -> &'static [&'static str] {
        &[]
    }

    /// The state of a parameter before its first step.
    ///
    /// # Errors
    /// [`Error::Core`] if it cannot be made.
    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, self.slots())
    }

    /// The parameter after a step.
    ///
    /// # Errors
    /// [`Error::Core`] if the shapes do not fit, [`Error::Weight`] if a slot is missing.
    fn apply(&self, update: &mut Update<'_>) -> Result<Array>;
}

/// Where an optimizer stands.
#[derive(Debug, Clone)]
pub struct Step {
    /// The number of this step, from one.
    pub number: Array,
    /// The learning rate of this step.
    pub learning_rate: Array,
}

/// One parameter at one step, as a [`Rule`] sees it.
#[derive(Debug)]
pub struct Update<'u> {
    /// Where the optimizer stands.
    pub step: &'u Step,
    /// The gradient.
    pub gradient: &'u Array,
    /// The parameter before the step.
    pub parameter: &'u Array,
    slots: &'u mut Slots,
}

impl<'u> Update<'u> {
    /// The learning rate in the dtype of the gradient.
    ///
    /// # Errors
    /// None in practice.
    pub fn rate(&self) -> Result<Array> {
        Ok(self.step.learning_rate.astype(self.gradient.dtype())?)
    }

    /// The array kept under `name`.
    ///
    /// # Errors
    /// [`Error::Weight`] if the rule keeps no such array.
    pub fn slot(&self, name: &'static str) -> Result<&Array> {
        self.slots
            .get(name)
            .ok_or_else(|| Error::weight(name, "the rule keeps no such slot"))
    }

    /// Keeps an array under `name` until the next step.
    pub fn keep(&mut self, name: &'static str, array: Array) {
        self.slots.insert(name, array);
    }

    /// Moves the average kept under `name` towards `new`, and returns it.
    ///
    /// # Errors
    /// As [`slot`](Self::slot), or [`Error::Core`] if the shapes do not fit.
    pub fn average(&mut self, name: &'static str, new: &Array, kept: f64) -> Result<Array> {
        let average = average(self.slot(name)?, new, kept)?;
        self.keep(name, average.clone());
        Ok(average)
    }

    /// The gradient of the loss and `weight_decay / 2` times the square of the parameter.
    fn regularized(&self, weight_decay: f64) -> Result<Array> {
        Ok(if weight_decay == 0.0 {
            self.gradient.clone()
        } else {
            (self.gradient + self.parameter * weight_decay)?
        })
    }

    /// The parameter without what decays of it in a step.
    fn decayed(&self, weight_decay: f64) -> Result<Array> {
        Ok(if weight_decay == 0.0 {
            self.parameter.clone()
        } else {
            (self.parameter * (1.0 - &(self.rate()? * weight_decay)?)?)?
        })
    }

    /// The same step of another parameter.
    fn with_parameter<'o>(&'o mut self, parameter: &'o Array) -> Update<'o>
    where
        'u: 'o,
    {
        Update {
            step: self.step,
            gradient: self.gradient,
            parameter,
            slots: self.slots,
        }
    }
}

/// Anything that changes a model by gradients.
pub trait Optimize: Send + Sync {
    /// Changes the parameters that have a gradient.
    ///
    /// # Errors
    /// [`Error::Weight`] if a gradient has no parameter; nothing is changed then.
    fn update(&mut self, module: &mut dyn Module, gradients: &Gradients) -> Result<()> {
        let mut current = parameters(module);
        let mut changed = BTreeMap::new();
        for key in gradients.keys() {
            match current.remove(key) {
                Some(parameter) => changed.insert(key.clone(), parameter),
                None => return Err(Error::weight(key, "the module has no such parameter")),
            };
        }
        update(module, self.apply(gradients, &changed)?)
    }

    /// What the parameters become; `parameters` must hold each key of `gradients`.
    ///
    /// # Errors
    /// [`Error::Weight`] if a gradient has no parameter or its shape differs; the state is as
    /// before then.
    fn apply(&mut self, gradients: &Gradients, parameters: &Gradients) -> Result<Gradients>;

    /// Prepares the state of these parameters, which otherwise happens with their first gradient.
    ///
    /// # Errors
    /// [`Error::Core`] if it cannot be made.
    fn init(&mut self, parameters: &Gradients) -> Result<()>;

    /// All state by name, as Python MLX flattens it: `step`, `learning_rate`, and
    /// `<parameter>.<slot>`.
    fn state(&self) -> BTreeMap<String, Array>;

    /// Takes up what [`state`](Self::state) gave. A missing `learning_rate`, which Python's
    /// Adafactor need not have, follows from the schedule.
    ///
    /// # Errors
    /// [`Error::Weight`] if a name is not understood, or the arrays of a parameter that is
    /// [prepared](Self::init) have other names or shapes; the state is as before then. Those of
    /// other parameters are checked with their first gradient.
    fn set_state(&mut self, state: BTreeMap<String, Array>) -> Result<()>;

    /// The learning rate of the last step, or of the first before there was one; that of the first
    /// of several optimizers.
    fn learning_rate(&self) -> &Array;

    /// Replaces learning rate and schedule, of all optimizers if there are several.
    ///
    /// # Errors
    /// [`Error::Core`] if the schedule cannot be computed.
    fn set_learning_rate(&mut self, learning_rate: Schedule) -> Result<()>;

    /// A number that changes with whatever a compiled step holds of the optimizer besides its
    /// state, and that no two optimizers share: its schedule and its rule. By it, a
    /// [`TrainStep`](crate::train::TrainStep) knows that it must be traced again.
    fn revision(&self) -> u64;
}

/// Drives a [`Rule`] over all parameters.
///
/// ```
/// use std::collections::BTreeMap;
/// use mlx_core::Array;
/// use mlx_nn::optimizer::{Optimize, Optimizer, Sgd};
///
/// let mut optimizer = Optimizer::new(Sgd::default(), 0.1)?;
/// let parameters = BTreeMap::from([("w".to_owned(), Array::full::<f32>(&[1], 1.0)?)]);
/// let gradients = BTreeMap::from([("w".to_owned(), Array::full::<f32>(&[1], 2.0)?)]);
/// let changed = optimizer.apply(&gradients, &parameters)?;
/// assert_eq!(changed["w"].to_vec::<f32>()?, [0.8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Optimizer<R> {
    rule: R,
    schedule: Schedule,
    step: Array,
    learning_rate: Array,
    slots: Kept,
    revision: u64,
}

impl<R: Rule> Optimizer<R> {
    /// An optimizer with a constant learning rate or a [`Schedule`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a setting of the rule is out of range.
    pub fn new(rule: R, learning_rate: impl Into<Schedule>) -> Result<Self> {
        rule.validate()?;
        let schedule = learning_rate.into();
        let step = Array::scalar_dtype(0.0, Dtype::Uint64)?;
        let learning_rate = schedule.at(&step)?;
        Ok(Self {
            rule,
            schedule,
            step,
            learning_rate,
            slots: Kept::new(),
            revision: next_revision(),
        })
    }

    /// The learning rate of the last step, or of the first before there was one.
    pub const fn learning_rate(&self) -> &Array {
        &self.learning_rate
    }

    /// Replaces learning rate and schedule.
    ///
    /// # Errors
    /// [`Error::Core`] if the schedule cannot be computed.
    pub fn set_learning_rate(&mut self, learning_rate: impl Into<Schedule>) -> Result<()> {
        let schedule = learning_rate.into();
        self.learning_rate = schedule.at(&self.step)?;
        // A constant is part of the state, so that another one needs no new trace.
        if !matches!(
            (&self.schedule, &schedule),
            (Schedule::Constant(_), Schedule::Constant(_))
        ) {
            self.revision = next_revision();
        }
        self.schedule = schedule;
        Ok(())
    }

    /// How many steps there were.
    pub const fn step(&self) -> &Array {
        &self.step
    }

    /// What is kept for a parameter, or what the rule starts with.
    fn slots_of(&self, key: &str, like: &Array) -> Result<Slots> {
        let slots = self.rule.init(like)?;
        match self.slots.get(key) {
            Some(kept) => take_up(key, slots, kept),
            None => Ok(slots),
        }
    }

    fn keep(&mut self, key: &str, slots: Slots) {
        let slots = slots
            .into_iter()
            .map(|(name, array)| (name.to_owned(), array));
        self.slots.insert(key.to_owned(), slots.collect());
    }
}

impl<R: Rule> Optimize for Optimizer<R> {
    fn apply(&mut self, gradients: &Gradients, parameters: &Gradients) -> Result<Gradients> {
        let learning_rate = match self.schedule {
            Schedule::Constant(_) => self.learning_rate.clone(),
            _ => self.schedule.at(&self.step)?,
        };
        let number = (&self.step + Array::scalar_dtype(1.0, Dtype::Uint64))?;
        let step = Step {
            number,
            learning_rate,
        };
        let mut changed = Gradients::new();
        let mut states = Vec::with_capacity(gradients.len());
        for (key, gradient) in gradients {
            let parameter = parameter_of(key, gradient, parameters)?;
            let mut slots = self.slots_of(key, gradient)?;
            let mut update = Update {
                step: &step,
                gradient,
                parameter,
                slots: &mut slots,
            };
            changed.insert(key.clone(), self.rule.apply(&mut update)?);
            states.push((key, slots));
        }
        for (key, slots) in states {
            self.keep(key, slots);
        }
        (self.step, self.learning_rate) = (step.number, step.learning_rate);
        Ok(changed)
    }

    fn init(&mut self, parameters: &Gradients) -> Result<()> {
        for (key, parameter) in parameters {
            let slots = self.slots_of(key, parameter)?;
            self.keep(key, slots);
        }
        Ok(())
    }

    fn state(&self) -> BTreeMap<String, Array> {
        let slots = self.slots.iter().flat_map(|(key, slots)| {
            slots
                .iter()
                .map(move |(name, array)| (format!("{key}.{name}"), array.clone()))
        });
        let own = [("step", &self.step), ("learning_rate", &self.learning_rate)];
        own.map(|(name, array)| (name.to_owned(), array.clone()))
            .into_iter()
            .chain(slots)
            .collect()
    }

    fn set_state(&mut self, state: BTreeMap<String, Array>) -> Result<()> {
        let parsed = parse(state)?;
        for (key, found) in &parsed.slots {
            if let Some(known) = self.slots.get(key) {
                let known = known.iter().map(|(name, array)| (name.as_str(), array));
                check(key, found, known)?;
            }
        }
        let learning_rate = match parsed.learning_rate {
            Some(rate) => rate,
            None => self.schedule.at(&parsed.step)?,
        };
        (self.step, self.learning_rate, self.slots) = (parsed.step, learning_rate, parsed.slots);
        Ok(())
    }

    fn learning_rate(&self) -> &Array {
        &self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: Schedule) -> Result<()> {
        Self::set_learning_rate(self, learning_rate)
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

/// The parameter that belongs to a gradient.
fn parameter_of<'p>(key: &str, gradient: &Array, parameters: &'p Gradients) -> Result<&'p Array> {
    match parameters.get(key) {
        Some(parameter) if parameter.shape() == gradient.shape() => Ok(parameter),
        Some(parameter) => {
            let (found, expected) = (gradient.shape(), parameter.shape());
            let message = format!("the gradient is {found:?}, the parameter {expected:?}");
            Err(Error::weight(key, message))
        }
        None => Err(Error::weight(key, "a gradient without its parameter")),
    }
}

/// `kept · old + (1 − kept) · new`
fn average(old: &Array, new: &Array, kept: f64) -> Result<Array> {
    Ok(((old * kept)? + new * (1.0 - kept))?)
}

/// Slots of zeros in the shape and dtype of a parameter.
fn zeros(parameter: &Array, names: &[&'static str]) -> Result<Slots> {
    let zeros = Array::zeros_dtype(&parameter.shape(), parameter.dtype())?;
    Ok(names.iter().map(|&name| (name, zeros.clone())).collect())
}

/// Refuses a decay factor outside `0..1`.
fn check_betas(rule: &'static str, betas: (f64, f64)) -> Result<()> {
    for beta in [betas.0, betas.1] {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::invalid(
                rule,
                format!("betas must be in 0..1, found {beta}"),
            ));
        }
    }
    Ok(())
}

/// Refuses a setting that is not positive (or, where zero is allowed, negative).
fn check_positive(rule: &'static str, name: &str, value: f64, zero: bool) -> Result<()> {
    if value > 0.0 || (zero && value == 0.0) {
        return Ok(());
    }
    let bound = if zero {
        "not be negative"
    } else {
        "be positive"
    };
    Err(Error::invalid(
        rule,
        format!("{name} must {bound}, found {value}"),
    ))
}
