//! Adapters in, out, and into the weights.

use std::collections::BTreeMap;

use mlx_core::{Array, Dtype};

use super::{AdaptedWeight, Adapter, AdapterKind, weight::lengths};
use crate::{Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight, init};

/// How fresh adapters are made.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct AdapterOptions {
    /// The rank of the update.
    pub rank: i32,
    /// The factor of the update.
    pub scale: f32,
    /// Whether each row's length is learned apart from its direction (DoRA).
    pub dora: bool,
    /// The probability of dropout inside the adapters; see [`with_dropout`](super::with_dropout).
    pub dropout: f32,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            rank: 8,
            scale: 20.0,
            dora: false,
            dropout: 0.0,
        }
    }
}

impl AdapterOptions {
    /// Sets the rank.
    pub const fn rank(mut self, rank: i32) -> Self {
        self.rank = rank;
        self
    }

    /// Sets the factor of the update.
    pub const fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Sets whether lengths are learned apart.
    pub const fn dora(mut self, dora: bool) -> Self {
        self.dora = dora;
        self
    }

    /// Sets the probability of dropout inside the adapters.
    pub const fn dropout(mut self, dropout: f32) -> Self {
        self.dropout = dropout;
        self
    }
}

/// Whether a parameter with this key belongs to an adapter; training freezes all others.
#[must_use]
pub fn is_adapter_key(key: &str) -> bool {
    matches!(
        key.rsplit_once('.').map_or(key, |(_, name)| name),
        "lora_a" | "lora_b" | "m"
    )
}

/// Gives a fresh adapter to each weight whose path fulfils `predicate`; returns how many.
///
/// The model computes the same as before until the adapters are trained.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{
///     Linear, Sequential, parameters,
///     adapter::{AdapterOptions, add_adapters, fuse_adapters, is_adapter_key},
/// };
///
/// let mut model = Sequential::new().then(Linear::new(4, 4, true)?).then(Linear::new(4, 2, true)?);
/// let x = Array::ones::<f32>(&[1, 4])?;
/// let before = model.forward(&x)?.to_vec::<f32>()?;
/// assert_eq!(add_adapters(&mut model, AdapterOptions::default(), |path| path == "layers.0")?, 1);
/// assert_eq!(parameters(&model).keys().filter(|key| is_adapter_key(key)).count(), 2);
/// assert_eq!(model.forward(&x)?.to_vec::<f32>()?, before);
/// assert_eq!(fuse_adapters(&mut model, false)?, 1);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the rank is not positive, or for DoRA on experts;
/// [`Error::Weight`] if a weight has an adapter already or is not loaded, or the dropout is not in
/// `0..1`. Nothing is changed then.
pub fn add_adapters(
    module: &mut dyn Module,
    options: AdapterOptions,
    predicate: impl FnMut(&str) -> bool,
) -> Result<usize> {
    if options.rank <= 0 {
        let message = format!("the rank must be positive, found {}", options.rank);
        return Err(Error::invalid("add_adapters", message));
    }
    let mut fresh = Fresh {
        options,
        predicate,
        made: Ok(BTreeMap::new()),
    };
    module.visit(&KeyPath::root(), &mut fresh);
    let made = fresh.made?;
    let count = made.len();
    attach_adapters(module, made)?;
    Ok(count)
}

/// Gives adapters to the weights at their paths.
///
/// # Errors
/// [`Error::Weight`] if a path has no weight, its weight has an adapter already or is not loaded,
/// or the shapes do not fit. Nothing is changed then.
pub fn attach_adapters(
    module: &mut dyn Module,
    mut adapters: BTreeMap<String, Adapter>,
) -> Result<()> {
    let mut check = Check {
        adapters: &adapters,
        seen: BTreeMap::new(),
        result: Ok(()),
    };
    module.visit(&KeyPath::root(), &mut check);
    let (kinds, result) = (check.seen, check.result);
    result?;
    if let Some(path) = adapters.keys().find(|path| !kinds.contains_key(*path)) {
        return Err(Error::weight(path, "the model has no such weight"));
    }
    each_weight(module, |path, weight| {
        if let (Some(adapter), Some(kind)) = (adapters.remove(path), kinds.get(path)) {
            let base = std::mem::replace(weight, Weight::Unloaded { shape: Vec::new() });
            *weight = Weight::Adapted(Box::new(AdaptedWeight {
                base,
                adapter,
                kind: *kind,
            }));
        }
        Ok(())
    })
}

/// The adapters of a module by the path of their layer.
#[must_use]
pub fn adapters(module: &dyn Module) -> BTreeMap<String, Adapter> {
    struct Collect(BTreeMap<String, Adapter>);

    impl<'a> Visitor<'a> for Collect {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

        fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
            if let Weight::Adapted(adapted) = weight {
                self.0.insert(path.to_string(), adapted.adapter.clone());
            }
            Descend::Over
        }
    }

    let mut collect = Collect(BTreeMap::new());
    module.visit(&KeyPath::root(), &mut collect);
    collect.0
}

/// Takes all adapters out, so that the model computes as without them.
///
/// # Errors
/// None in practice.
pub fn take_adapters(module: &mut dyn Module) -> Result<BTreeMap<String, Adapter>> {
    let mut taken = BTreeMap::new();
    each_weight(module, |path, weight| {
        if let Weight::Adapted(adapted) = weight {
            taken.insert(path.to_owned(), adapted.adapter.clone());
            let base = adapted.base.clone();
            *weight = base;
        }
        Ok(())
    })?;
    Ok(taken)
}

/// Makes all adapters part of their weights; returns how many there were. Quantised weights are
/// quantised again, unless `dequantize` leaves them dense.
///
/// # Errors
/// [`Error::Core`] if a weight cannot be computed; adapters before it are fused then.
pub fn fuse_adapters(module: &mut dyn Module, dequantize: bool) -> Result<usize> {
    let mut count = 0;
    each_weight(module, |_, weight| {
        if let Weight::Adapted(adapted) = weight {
            *weight = adapted.fuse(dequantize)?;
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

struct Fresh<P> {
    options: AdapterOptions,
    predicate: P,
    made: Result<BTreeMap<String, Adapter>>,
}

impl<P: FnMut(&str) -> bool> Fresh<P> {
    fn take(&mut self, path: &KeyPath<'_>, weight: &Weight, kind: AdapterKind) {
        let path = path.to_string();
        if !(self.predicate)(&path) {
            return;
        }
        let adapter = fresh(&path, weight, kind, self.options);
        if let Ok(made) = &mut self.made {
            match adapter {
                Ok(adapter) => {
                    made.insert(path, adapter);
                }
                Err(error) => self.made = Err(error),
            }
        }
    }
}

impl<'a, P: FnMut(&str) -> bool> Visitor<'a> for Fresh<P> {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let kind = match weight.shape().len() {
            3 => AdapterKind::Experts,
            _ => AdapterKind::Linear,
        };
        self.take(path, weight, kind);
        Descend::Over
    }

    fn embedding(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.take(path, weight, AdapterKind::Embedding);
        Descend::Over
    }
}

fn fresh(
    path: &str,
    weight: &Weight,
    kind: AdapterKind,
    options: AdapterOptions,
) -> Result<Adapter> {
    let (rank, zeros) = (options.rank, |shape: &[i32]| {
        Array::zeros_dtype(&shape, Dtype::Float32)
    });
    let shape = weight.shape();
    let (lora_a, lora_b) = match (kind, shape.as_slice()) {
        (AdapterKind::Linear, &[output, input]) => (
            init::symmetric_uniform(init::reciprocal_sqrt(input), &[input, rank])?,
            zeros(&[rank, output])?,
        ),
        (AdapterKind::Embedding, &[rows, dims]) => (
            init::symmetric_uniform(init::reciprocal_sqrt(rows), &[rows, rank])?,
            zeros(&[rank, dims])?,
        ),
        (AdapterKind::Experts, &[experts, output, input]) if !options.dora => (
            init::symmetric_uniform(init::reciprocal_sqrt(input), &[experts, rank, input])?,
            zeros(&[experts, output, rank])?,
        ),
        _ => {
            let message = format!("{path} of shape {shape:?} takes no such adapter");
            return Err(Error::invalid("add_adapters", message));
        }
    };
    let magnitude = options
        .dora
        .then(|| lengths(&weight.to_dense("weight")?.astype(Dtype::Float32)?))
        .transpose()?;
    Ok(Adapter {
        lora_a,
        lora_b,
        magnitude,
        scale: options.scale,
        dropout: options.dropout,
    })
}

struct Check<'c> {
    adapters: &'c BTreeMap<String, Adapter>,
    seen: BTreeMap<String, AdapterKind>,
    result: Result<()>,
}

impl Check<'_> {
    fn look(&mut self, path: &KeyPath<'_>, weight: &Weight, embedding: bool) {
        let path = path.to_string();
        let Some(adapter) = self.adapters.get(&path) else {
            return;
        };
        let kind = match weight {
            Weight::Unloaded { .. } => {
                Err(Error::weight(&path, "not loaded, so it takes no adapter"))
            }
            Weight::Adapted(_) => Err(Error::weight(&path, "has an adapter already")),
            Weight::Dense(_) | Weight::Quantized(_) => adapter.kind(&path, weight),
        };
        match kind {
            // A square table fits both ways; the layer decides.
            Ok(AdapterKind::Linear)
                if embedding && adapter.lora_a.shape().first() == weight.shape().first() =>
            {
                self.seen.insert(path, AdapterKind::Embedding);
            }
            Ok(kind) => {
                self.seen.insert(path, kind);
            }
            Err(error) => self.result = Err(error),
        }
    }
}

impl<'a> Visitor<'a> for Check<'_> {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.look(path, weight, false);
        Descend::Over
    }

    fn embedding(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.look(path, weight, true);
        Descend::Over
    }
}

fn each_weight(
    module: &mut dyn Module,
    f: impl FnMut(&str, &mut Weight) -> Result<()>,
) -> Result<()> {
    struct Each<F>(F);

    impl<F: FnMut(&str, &mut Weight) -> Result<()>> VisitorMut for Each<F> {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &mut Array) -> Result<()> {
            Ok(())
        }

        fn weight(&mut self, path: &KeyPath<'_>, weight: &mut Weight) -> Result<Descend> {
            (self.0)(&path.to_string(), weight)?;
            Ok(Descend::Over)
        }
    }

    module.visit_mut(&KeyPath::root(), &mut Each(f))
}
