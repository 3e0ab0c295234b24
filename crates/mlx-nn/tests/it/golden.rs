//! Reading goldens, and comparing layers and their gradients with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use mlx_core::Array;
use mlx_nn::{LayerQuantization, Module, QuantMode, Weights, update};
use mlx_transforms::vjp;

pub(crate) type TestResult = Result<(), Box<dyn std::error::Error>>;

/// One file of cases, with the tolerance of its note.
pub(crate) struct Golden {
    weights: Weights,
    tolerance: f64,
}

pub(crate) fn folder(group: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/nn")
        .join(group)
}

impl Golden {
    pub(crate) fn open(group: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = folder(group);
        let note: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("note.json"))?)?;
        let tolerance = note["tolerance"]
            .as_f64()
            .ok_or("the note has no tolerance")?;
        let weights = Weights::load_safetensors(folder.join("golden.safetensors"))?;
        Ok(Self { weights, tolerance })
    }

    /// The names of all cases.
    pub(crate) fn cases(&self) -> BTreeSet<&str> {
        self.weights
            .keys()
            .filter_map(|key| key.split_once('/'))
            .map(|(case, _)| case)
            .collect()
    }

    pub(crate) fn get(&self, case: &str, name: &str) -> Result<Array, String> {
        self.find(case, name)
            .ok_or_else(|| format!("no golden {case}/{name}"))
    }

    pub(crate) fn find(&self, case: &str, name: &str) -> Option<Array> {
        self.weights.get(&format!("{case}/{name}")).cloned()
    }

    /// The arrays of a case that start with `prefix`, by the rest of their names.
    pub(crate) fn all(&self, case: &str, prefix: &str) -> BTreeMap<String, Array> {
        let prefix = format!("{case}/{prefix}");
        let named = |(key, array): (&str, &Array)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), array.clone()))
        };
        self.weights.iter().filter_map(named).collect()
    }

    /// Compares shape, and values by their largest difference over the largest golden value.
    pub(crate) fn check(&self, case: &str, name: &str, found: &Array) -> TestResult {
        self.check_with_floor(case, name, found, 0.0)
    }

    /// [`check`](Self::check), with differences relative to at least `floor`.
    fn check_with_floor(&self, case: &str, name: &str, found: &Array, floor: f64) -> TestResult {
        let golden = self.get(case, name)?;
        let difference =
            difference(found, &golden, floor).map_err(|error| format!("{case}/{name}: {error}"))?;
        if difference <= self.tolerance {
            Ok(())
        } else {
            Err(format!(
                "{case}/{name}: off by {difference:e}, allowed {:e}",
                self.tolerance
            )
            .into())
        }
    }

    /// Checks output `y` and the gradients `d<name>` of `f` at the named inputs.
    pub(crate) fn check_function(
        &self,
        case: &str,
        inputs: &[&str],
        f: impl Fn(&[Array]) -> mlx_nn::Result<Array> + 'static,
    ) -> TestResult {
        let arrays = inputs
            .iter()
            .map(|name| self.get(case, name))
            .collect::<Result<Vec<_>, _>>()?;
        let cotangent = self.get(case, "cotangent")?;
        let (outputs, gradients) = vjp(move |xs| Ok(vec![f(xs)?]), &arrays, &[cotangent])?;
        self.check(case, "y", outputs.first().ok_or("no output")?)?;
        assert_eq!(gradients.len(), inputs.len(), "{case}");
        // A gradient may cancel to zero (that of a key bias under softmax does) and is noise then,
        // which only the size of the case's other gradients gives a measure for.
        let names: Vec<String> = inputs.iter().map(|name| format!("d{name}")).collect();
        let mut scale = 0.0_f64;
        for name in &names {
            scale = scale.max(largest(&values(&self.get(case, name)?)?));
        }
        for (name, gradient) in names.iter().zip(&gradients) {
            self.check_with_floor(case, name, gradient, 0.1 * scale)?;
        }
        Ok(())
    }

    /// Fills `module` with the parameters of a case, then checks it like a function of its
    /// inputs and of each parameter.
    pub(crate) fn check_layer<M: Module + Clone + 'static>(
        &self,
        case: &str,
        module: &M,
        inputs: &[&str],
        forward: impl Fn(&M, &[Array]) -> mlx_nn::Result<Array> + 'static,
    ) -> TestResult {
        let keys: Vec<String> = self.all(case, "parameters.").into_keys().collect();
        let trainable: Vec<String> = mlx_nn::trainable_parameters(module).into_keys().collect();
        assert_eq!(keys, trainable, "{case}: parameter names");
        let names: Vec<String> = inputs
            .iter()
            .map(|&name| name.to_owned())
            .chain(keys.iter().map(|key| format!("parameters.{key}")))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (module, count) = (module.clone(), inputs.len());
        self.check_function(case, &names, move |xs| {
            let mut module = module.clone();
            let parameters = keys
                .iter()
                .cloned()
                .zip(xs.iter().skip(count).cloned())
                .collect();
            update(&mut module, parameters)?;
            forward(&module, xs)
        })
    }
}

/// The largest difference over the largest golden value.
pub(crate) fn relative_difference(found: &Array, golden: &Array) -> Result<f64, String> {
    difference(found, golden, 0.0)
}

fn difference(found: &Array, golden: &Array, floor: f64) -> Result<f64, String> {
    if found.shape() != golden.shape() || found.dtype() != golden.dtype() {
        return Err(format!(
            "expected {:?} {:?}, found {:?} {:?}",
            golden.dtype(),
            golden.shape(),
            found.dtype(),
            found.shape()
        ));
    }
    let (found, golden) = (values(found)?, values(golden)?);
    let mut difference = 0.0_f64;
    for (found, golden) in found.iter().zip(&golden) {
        let gap = (found - golden).abs();
        // A NaN must not compare as small.
        difference = if gap.is_nan() {
            f64::INFINITY
        } else {
            difference.max(gap)
        };
    }
    Ok(difference / largest(&golden).max(floor).max(1e-30))
}

fn values(array: &Array) -> Result<Vec<f64>, String> {
    let array = array
        .astype(mlx_core::Dtype::Float32)
        .map_err(|e| e.to_string())?;
    let values = array.to_vec::<f32>().map_err(|e| e.to_string())?;
    Ok(values.into_iter().map(f64::from).collect())
}

fn largest(values: &[f64]) -> f64 {
    values.iter().map(|value| value.abs()).fold(0.0, f64::max)
}

/// The arrays of a golden case that belong to a checkpoint.
pub(crate) fn checkpoint(golden: &Golden, case: &str) -> Weights {
    let parts = ["weight", "scales", "biases", "bias"];
    parts
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), golden.find(case, name)?)))
        .collect()
}

/// `quantized.<mode>.<bits>.<group_size>`
pub(crate) fn settings(case: &str) -> Result<LayerQuantization, Box<dyn std::error::Error>> {
    let parts: Vec<&str> = case.split('.').collect();
    let mode: QuantMode = serde_json::from_value(parts[1].into())?;
    let mut settings = LayerQuantization::new(mode);
    settings.bits = parts[2].parse()?;
    settings.group_size = parts[3].parse()?;
    Ok(settings)
}
