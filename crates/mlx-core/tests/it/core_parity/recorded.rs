//! A call as Python recorded it: an argument source that reads descriptions.

use std::collections::BTreeMap;

use mlx_core::ops::quantized::{QuantizationLayout, QuantizationMode, quantize};
use mlx_core::{Array, Dtype, Error, Index, Result};
use serde_json::{Map, Value};

use super::spec;
use crate::calls::{Arguments, Results as _};

/// The arguments of a recorded call.
pub(crate) struct Recorded<'a> {
    args: &'a Map<String, Value>,
    /// Arrays in place of what their descriptions say; `arrays.1` is the second of a list.
    replaced: BTreeMap<String, Array>,
}

impl<'a> Recorded<'a> {
    pub(crate) fn new(args: &'a Map<String, Value>) -> Result<Self> {
        let mut packed = BTreeMap::new();
        if args.contains_key("quantise") {
            let number = |name: &str| args[name].as_i64().and_then(|v| i32::try_from(v).ok());
            let layout = QuantizationLayout {
                group_size: number("group_size"),
                bits: number("bits"),
                mode: QuantizationMode::from_name(args["mode"].as_str().unwrap()).unwrap(),
            };
            let parts = quantize(&spec::make(args["w"].as_str().unwrap())?, layout)?;
            for (name, array) in ["w", "scales", "biases"]
                .into_iter()
                .zip(parts.into_results())
            {
                packed.insert(name.to_owned(), array);
            }
            packed.insert("w_scales".to_owned(), packed["scales"].clone());
        }
        Ok(Recorded {
            args,
            replaced: packed,
        })
    }

    /// The call with another array as its argument `name`.
    #[allow(dead_code, reason = "only one of the two tests replaces arguments")]
    pub(crate) fn replace(&mut self, name: &str, array: Array) {
        self.replaced.insert(name.to_owned(), array);
    }

    /// The array that an argument is, or, for `arrays.1`, the second of a list.
    #[allow(dead_code, reason = "as above")]
    pub(crate) fn at(&self, name: &str) -> Result<Array> {
        if let Some(array) = self.replaced.get(name) {
            return Ok(array.clone());
        }
        let (head, place) = name.split_once('.').unwrap_or((name, ""));
        let value = self.value(head)?;
        let text = match place.parse::<usize>() {
            Ok(place) => &value[place],
            Err(_) => value,
        };
        spec::make(text.as_str().unwrap())
    }

    fn given(&self, name: &str) -> Option<&'a Value> {
        self.args.get(name)
    }

    fn value(&self, name: &str) -> Result<&'a Value> {
        let missing = || Error::Unsupported(format!("the call has no `{name}`"));
        self.given(name).ok_or_else(missing)
    }
}

fn int(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

fn ints(value: &Value) -> Vec<i32> {
    match value.as_array() {
        Some(list) => list.iter().map(int).collect(),
        None => vec![int(value)],
    }
}

impl Arguments for Recorded<'_> {
    fn opt_array(&mut self, name: &str) -> Result<Option<Array>> {
        if let Some(array) = self.replaced.get(name) {
            return Ok(Some(array.clone()));
        }
        self.given(name)
            .map(|value| spec::make(value.as_str().unwrap()))
            .transpose()
    }

    fn array(&mut self, name: &str) -> Result<Array> {
        let array = self.opt_array(name)?;
        Ok(array.unwrap_or_else(|| panic!("the call has no `{name}`")))
    }

    fn arrays(&mut self, name: &str) -> Result<Vec<Array>> {
        let list = self.value(name)?.as_array().unwrap();
        let part =
            |(place, value): (usize, &Value)| match self.replaced.get(&format!("{name}.{place}")) {
                Some(array) => Ok(array.clone()),
                None => spec::make(value.as_str().unwrap()),
            };
        list.iter().enumerate().map(part).collect()
    }

    fn opt_int(&mut self, name: &str) -> Result<Option<i32>> {
        Ok(self.given(name).map(int))
    }

    fn int(&mut self, name: &str) -> Result<i32> {
        Ok(int(self.value(name)?))
    }

    fn opt_ints(&mut self, name: &str) -> Result<Option<Vec<i32>>> {
        Ok(self.given(name).map(ints))
    }

    fn ints(&mut self, name: &str) -> Result<Vec<i32>> {
        Ok(ints(self.value(name)?))
    }

    fn longs(&mut self, name: &str) -> Result<Vec<i64>> {
        Ok(self.ints(name)?.into_iter().map(i64::from).collect())
    }

    fn pairs(&mut self, name: &str) -> Result<Vec<(i32, i32)>> {
        let list = self.value(name)?.as_array().unwrap();
        Ok(list
            .iter()
            .map(|pair| (int(&pair[0]), int(&pair[1])))
            .collect())
    }

    fn u64(&mut self, name: &str) -> Result<u64> {
        Ok(self.value(name)?.as_u64().unwrap())
    }

    fn opt_f32(&mut self, name: &str) -> Result<Option<f32>> {
        Ok(self.given(name).map(|value| value.as_f64().unwrap() as f32))
    }

    fn f64(&mut self, name: &str) -> Result<f64> {
        Ok(self.value(name)?.as_f64().unwrap())
    }

    fn opt_bool(&mut self, name: &str) -> Result<Option<bool>> {
        Ok(self.given(name).map(|value| value.as_bool().unwrap()))
    }

    fn opt_dtype(&mut self, name: &str) -> Result<Option<Dtype>> {
        let name_of = |value: &Value| spec::dtype(value.as_str().unwrap().trim_start_matches('%'));
        Ok(self.given(name).map(name_of))
    }

    fn dtype(&mut self, name: &str) -> Result<Dtype> {
        Ok(self.opt_dtype(name)?.unwrap_or(Dtype::Float32))
    }

    fn opt_text(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self
            .given(name)
            .map(|value| value.as_str().unwrap().to_owned()))
    }

    fn index(&mut self, name: &str) -> Result<Vec<Index>> {
        let part = |value: &Value| -> Result<Index> {
            Ok(match value {
                Value::Number(_) => Index::Int(int(value)),
                Value::Object(slice) => {
                    let limit = |i: usize| slice["s"].get(i).filter(|v| !v.is_null()).map(int);
                    Index::slice(limit(0), limit(1), limit(2).unwrap_or(1))
                }
                _ => match value.as_str().unwrap() {
                    "..." => Index::Ellipsis,
                    "new" => Index::NewAxis,
                    array => Index::Array(spec::make(array)?),
                },
            })
        };
        let list = self.value(name)?.as_array().unwrap();
        list.iter().map(part).collect()
    }
}
