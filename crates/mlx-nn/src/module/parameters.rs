//! The parameters of a module as a map, and changes to all of them at once.

use std::collections::BTreeMap;

use mlx_core::{Array, Dtype, ops::misc::astype};

use crate::{Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight};

/// Every array of a module by key: parameters, buffers and the parts of quantised weights.
///
/// Cloning an array shares it, so this copies no data.
#[must_use]
pub fn parameters(module: &dyn Module) -> BTreeMap<String, Array> {
    let mut collect = Collect {
        arrays: BTreeMap::new(),
        buffers: true,
    };
    module.visit(&KeyPath::root(), &mut collect);
    collect.arrays
}

/// The arrays that training may change: floating-point parameters, without buffers and quantised
/// weights.
#[must_use]
pub fn trainable_parameters(module: &dyn Module) -> BTreeMap<String, Array> {
    let mut collect = Collect {
        arrays: BTreeMap::new(),
        buffers: false,
    };
    module.visit(&KeyPath::root(), &mut collect);
    collect.arrays.retain(|_, array| is_floating(array.dtype()));
    collect.arrays
}

/// How many numbers a model is made of; a quantised weight counts as what it stands for.
#[must_use]
pub fn parameter_count(module: &dyn Module) -> u64 {
    let mut count = Count(0);
    module.visit(&KeyPath::root(), &mut count);
    count.0
}

/// Replaces arrays by key; keys that are not named stay as they are.
///
/// # Errors
/// [`Error::Weight`] if a key does not exist or its array has another shape; nothing is changed
/// then.
pub fn update(module: &mut dyn Module, mut arrays: BTreeMap<String, Array>) -> Result<()> {
    let current = parameters(module);
    for (key, array) in &arrays {
        let message = match current.get(key) {
            None => "the module has no such parameter".to_owned(),
            Some(old) if old.shape() != array.shape() => {
                format!("expected {:?}, found {:?}", old.shape(), array.shape())
            }
            Some(_) => continue,
        };
        return Err(Error::weight(key, message));
    }
    map(module, |key, array| {
        Ok(arrays.remove(key).unwrap_or_else(|| array.clone()))
    })
}

/// Replaces every array by what `f`, given its key, makes of it.
///
/// # Errors
/// The first error of `f`; arrays before it stay replaced.
pub fn map(module: &mut dyn Module, f: impl FnMut(&str, &Array) -> Result<Array>) -> Result<()> {
    module.visit_mut(&KeyPath::root(), &mut Map(f))
}

/// Casts the floating-point parameters to `dtype`; quantised weights keep theirs.
///
/// # Errors
/// [`Error::Core`] if the dtype is not available on the default device.
pub fn set_dtype(module: &mut dyn Module, dtype: Dtype) -> Result<()> {
    module.visit_mut(&KeyPath::root(), &mut Cast(dtype))
}

pub(crate) const fn is_floating(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64
    )
}

struct Collect {
    arrays: BTreeMap<String, Array>,
    buffers: bool,
}

impl<'a> Visitor<'a> for Collect {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.arrays.insert(path.to_string(), array.clone());
    }

    fn buffer(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        if self.buffers {
            self.parameter(path, array);
        }
    }
}

struct Count(u64);

impl Count {
    fn add(&mut self, shape: &[i32]) {
        self.0 += shape
            .iter()
            .map(|&dim| u64::try_from(dim).unwrap_or(0))
            .product::<u64>();
    }
}

impl<'a> Visitor<'a> for Count {
    fn parameter(&mut self, _: &KeyPath<'_>, array: &'a Array) {
        self.add(array.shape());
    }

    fn weight(&mut self, _: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.add(&weight.shape());
        if let Weight::Adapted(weight) = weight {
            let adapter = weight.adapter();
            self.add(adapter.lora_a.shape());
            self.add(adapter.lora_b.shape());
            if let Some(magnitude) = &adapter.magnitude {
                self.add(magnitude.shape());
            }
        }
        Descend::Over
    }
}

struct Map<F>(F);

impl<F: FnMut(&str, &Array) -> Result<Array>> VisitorMut for Map<F> {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()> {
        *array = (self.0)(&path.to_string(), array)?;
        Ok(())
    }
}

struct Cast(Dtype);

impl VisitorMut for Cast {
    fn parameter(&mut self, _: &KeyPath<'_>, array: &mut Array) -> Result<()> {
        if is_floating(array.dtype()) && array.dtype() != self.0 {
            *array = astype(array, self.0)?;
        }
        Ok(())
    }

    fn weight(&mut self, _: &KeyPath<'_>, weight: &mut Weight) -> Result<Descend> {
        if !weight.is_quantized() {
            return Ok(Descend::Into);
        }
        if let Weight::Adapted(weight) = weight {
            let adapter = &mut weight.adapter;
            let parts = [&mut adapter.lora_a, &mut adapter.lora_b];
            for part in parts.into_iter().chain(&mut adapter.magnitude) {
                *part = astype(part, self.0)?;
            }
        }
        Ok(Descend::Over)
    }
}
