//! Strict loading: every array of the file finds its place, and every place its array.

use std::{collections::BTreeSet, fmt};

use mlx_core::Array;

use crate::{
    Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight, Weights,
    module::{
        parameters::is_floating,
        quantize::{LayerQuantization, Quantization, infer},
    },
    weight::QuantizedWeight,
};

/// How [`load_weights`] treats differences.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct LoadOptions {
    /// Whether missing and unexpected keys are errors. On by default.
    pub strict: bool,
    /// The `quantization` entry of the model's configuration. Bits, group size and mode follow
    /// from the arrays; what this names for a layer is checked against them.
    pub quantization: Option<Quantization>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            strict: true,
            quantization: None,
        }
    }
}

impl LoadOptions {
    /// Sets whether missing and unexpected keys are errors.
    pub const fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets the quantisation that the model's configuration states.
    pub fn quantization(mut self, quantization: Quantization) -> Self {
        self.quantization = Some(quantization);
        self
    }
}

/// What [`load_weights`] did, or why it refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// How many arrays fit.
    pub loaded: usize,
    /// How many layers are quantised.
    pub quantized: usize,
    /// Keys of the model that the checkpoint lacks, sorted.
    pub missing: Vec<String>,
    /// Keys of the checkpoint that the model has no place for, sorted.
    pub unexpected: Vec<String>,
    /// Keys that both have in different shapes, sorted.
    pub misshaped: Vec<Misshaped>,
}

/// An array that does not fit its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Misshaped {
    /// The checkpoint key.
    pub key: String,
    /// What the model needs.
    pub expected: String,
    /// What the checkpoint holds.
    pub found: String,
}

impl fmt::Display for Misshaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.key, self.expected, self.found
        )
    }
}

/// How many keys of each kind a message shows; the report itself holds them all.
const SHOWN: usize = 20;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut list = |kind: &str, keys: &mut dyn ExactSizeIterator<Item = String>| {
            let count = keys.len();
            if count == 0 {
                return Ok(());
            }
            let shown = keys.take(SHOWN).collect::<Vec<_>>().join(", ");
            let rest = count.saturating_sub(SHOWN);
            write!(f, "{separator}{count} {kind} ({shown}")?;
            if rest > 0 {
                write!(f, " and {rest} more")?;
            }
            separator = "; ";
            f.write_str(")")
        };
        list("missing", &mut self.missing.iter().cloned())?;
        list("unexpected", &mut self.unexpected.iter().cloned())?;
        list(
            "of another shape",
            &mut self.misshaped.iter().map(Misshaped::to_string),
        )?;
        if separator.is_empty() {
            write!(f, "{} arrays fit", self.loaded)?;
        }
        Ok(())
    }
}

/// Fills a module with weights, by key.
///
/// A layer becomes quantised if and only if the checkpoint has `<path>.scales`; group size, bits
/// and mode are read from the arrays. Dtypes are kept as stored. Nothing is computed: lazily
/// loaded arrays stay so.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Error, Linear, LoadOptions, Weights, load_weights};
///
/// let mut layer = Linear::placeholder(3, 2, false)?;
/// let mut weights = Weights::new();
/// weights.insert("weight", Array::ones::<f32>(&[3, 2])?)?;
/// weights.insert("bias", Array::ones::<f32>(&[2])?)?;
/// let error = load_weights(&mut layer, weights, &LoadOptions::default()).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "weights do not fit the model: 1 unexpected (bias); \
///      1 of another shape (weight: expected [2, 3], found [3, 2])",
/// );
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::Load`] with every missing and unexpected key (if [strict](LoadOptions::strict)) and
/// every mis-shaped array (always); the module is unchanged then.
pub fn load_weights(
    module: &mut dyn Module,
    mut weights: Weights,
    options: &LoadOptions,
) -> Result<LoadReport> {
    let mut check = Check {
        weights: &weights,
        quantization: options.quantization.as_ref(),
        used: BTreeSet::new(),
        report: LoadReport::default(),
    };
    module.visit(&KeyPath::root(), &mut check);
    let Check {
        used, mut report, ..
    } = check;
    report.loaded = used.len();
    report.unexpected = weights
        .keys()
        .filter(|key| !used.contains(*key))
        .map(str::to_owned)
        .collect();
    // A layer of another shape is told once, not also as three keys that found no place.
    report
        .unexpected
        .retain(|key| !report.misshaped.iter().any(|other| covers(other, key)));
    report.missing.sort_unstable();
    report.misshaped.sort_unstable();

    let complete = report.missing.is_empty() && report.unexpected.is_empty();
    if !report.misshaped.is_empty() || (options.strict && !complete) {
        return Err(Error::Load(Box::new(report)));
    }
    module.visit_mut(
        &KeyPath::root(),
        &mut Assign {
            weights: &mut weights,
        },
    )?;
    Ok(report)
}

/// Whether `key` belongs to the layer whose weight is mis-shaped.
fn covers(misshaped: &Misshaped, key: &str) -> bool {
    let layer = misshaped
        .key
        .strip_suffix("weight")
        .unwrap_or(&misshaped.key);
    key == misshaped.key
        || ["weight", "scales", "biases"]
            .iter()
            .any(|part| key.strip_prefix(layer) == Some(part))
}

/// Compares module and checkpoint without changing either.
struct Check<'w> {
    weights: &'w Weights,
    quantization: Option<&'w Quantization>,
    used: BTreeSet<String>,
    report: LoadReport,
}

impl Check<'_> {
    fn compare(&mut self, key: String, place: &Array) {
        // A model computes with what it is given: a norm scaled by truth values would run.
        if let Some(found) = self.weights.get(&key)
            && is_floating(place.dtype()) != is_floating(found.dtype())
        {
            let kind = |floating| {
                if floating {
                    "floating point"
                } else {
                    "integers"
                }
            };
            self.report.misshaped.push(Misshaped {
                key,
                expected: kind(is_floating(place.dtype())).to_owned(),
                found: found.dtype().to_string(),
            });
            return;
        }
        self.compare_shape(key, place.shape());
    }

    fn compare_weight(&mut self, path: &KeyPath<'_>, weight: &Weight) {
        let weights = self.weights;
        let key = path.child("weight").to_string();
        match weights.get(&path.child("scales").to_string()) {
            Some(scales) => self.compare_quantized(path, &weight.shape(), scales),
            None => match weights.get(&key) {
                Some(found) if !is_floating(found.dtype()) => {
                    self.report.misshaped.push(Misshaped {
                        key,
                        expected: "floating point, or scales beside it".to_owned(),
                        found: found.dtype().to_string(),
                    });
                }
                _ => self.compare_shape(key, &weight.shape()),
            },
        }
    }

    fn compare_shape(&mut self, key: String, expected: &[i32]) {
        match self.weights.get(&key) {
            None => self.report.missing.push(key),
            Some(found) if found.shape() != expected => {
                let (expected, found) = (format!("{expected:?}"), format!("{:?}", found.shape()));
                self.report.misshaped.push(Misshaped {
                    key,
                    expected,
                    found,
                });
            }
            Some(_) => {
                self.used.insert(key);
            }
        }
    }

    fn compare_quantized(&mut self, path: &KeyPath<'_>, expected: &[i32], scales: &Array) {
        let [weight_key, scales_key, biases_key] =
            ["weight", "scales", "biases"].map(|part| path.child(part).to_string());
        let Some(codes) = self.weights.get(&weight_key) else {
            self.report.missing.push(weight_key);
            return;
        };
        let biases = self.weights.get(&biases_key);
        let found = match infer(expected, codes, scales, biases) {
            Ok(found) => found,
            Err(found) => {
                let expected = format!("a quantised {expected:?}");
                self.report.misshaped.push(Misshaped {
                    key: weight_key,
                    expected,
                    found,
                });
                return;
            }
        };
        let stated = self
            .quantization
            .and_then(|all| all.overrides.get(&path.to_string()));
        if let Some(stated) = stated
            && *stated != Some(found)
        {
            let expected =
                stated.map_or_else(|| "no quantisation".to_owned(), |layer| layer.to_string());
            let found = found.to_string();
            self.report.misshaped.push(Misshaped {
                key: weight_key,
                expected,
                found,
            });
            return;
        }
        if has_biases(found) {
            match biases {
                Some(_) => {
                    self.used.insert(biases_key);
                }
                None => self.report.missing.push(biases_key),
            }
        }
        self.used.extend([weight_key, scales_key]);
        self.report.quantized += 1;
    }
}

impl<'a> Visitor<'a> for Check<'_> {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.compare(path.to_string(), array);
    }

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.compare_weight(path, weight);
        if let Weight::Adapted(adapted) = weight {
            let adapter = adapted.adapter();
            self.compare(path.child("lora_a").to_string(), &adapter.lora_a);
            self.compare(path.child("lora_b").to_string(), &adapter.lora_b);
            if let Some(magnitude) = &adapter.magnitude {
                self.compare(path.child("m").to_string(), magnitude);
            }
        }
        Descend::Over
    }
}

/// Moves checked arrays into the module.
struct Assign<'w> {
    weights: &'w mut Weights,
}

impl VisitorMut for Assign<'_> {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()> {
        if let Some(loaded) = self.weights.take(&path.to_string()) {
            *array = loaded;
        }
        Ok(())
    }

    fn weight(&mut self, path: &KeyPath<'_>, weight: &mut Weight) -> Result<Descend> {
        if let Weight::Adapted(adapted) = weight {
            let adapter = &mut adapted.adapter;
            self.parameter(&path.child("lora_a"), &mut adapter.lora_a)?;
            self.parameter(&path.child("lora_b"), &mut adapter.lora_b)?;
            if let Some(magnitude) = &mut adapter.magnitude {
                self.parameter(&path.child("m"), magnitude)?;
            }
            return self.weight(path, &mut adapted.base);
        }
        let mut take = |part| self.weights.take(&path.child(part).to_string());
        let Some(loaded) = take("weight") else {
            return Ok(Descend::Over);
        };
        *weight = match take("scales") {
            None => Weight::Dense(loaded),
            Some(scales) => {
                let biases = take("biases");
                let quantization = infer(&weight.shape(), &loaded, &scales, biases.as_ref())
                    .map_err(|message| Error::weight(path.child("weight").to_string(), message))?;
                // Lenient loading gets here: codes without their offsets are no weight.
                if has_biases(quantization) && biases.is_none() {
                    return Ok(Descend::Over);
                }
                Weight::Quantized(QuantizedWeight {
                    codes: loaded,
                    scales,
                    biases: biases.filter(|_| has_biases(quantization)),
                    quantization,
                })
            }
        };
        Ok(Descend::Over)
    }
}

/// Only affine groups have an offset.
fn has_biases(layer: LayerQuantization) -> bool {
    layer.mode == crate::QuantMode::Affine
}
