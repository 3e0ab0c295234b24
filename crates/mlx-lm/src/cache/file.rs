//! Whole caches in one file.
//!
//! The layout follows that of Python mlx-lm 0.32 prompt caches: arrays under the
//! path of their place (`layer.part`), scalars as arrays that the metadata
//! tells apart, one class name for each layer.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mlx_core::io::{SafetensorsFile, save_safetensors};
use mlx_core::ops::misc::astype;
use mlx_core::{Array, Dtype};

use super::parts::{KvQuantization, Parts};
use super::{Cache, CacheList, ChunkedKvCache, KvCache, LayerCache, RotatingCache, StateCache};
use crate::{Error, Result};

/// Lists within lists are not read deeper than this.
const MAX_DEPTH: usize = 4;
/// Where the tokens that states have seen are noted.
const STATE_OFFSET: &str = "state_offset:";

/// Writes the cache of one sequence, and metadata for whoever loads it.
///
/// Evaluates the cache. The file appears once it is complete.
///
/// # Errors
/// [`Error::Option`] for a batch, of which [`row`](super::row) takes one
/// sequence out; or if the file cannot be written.
pub fn save(
    path: impl AsRef<Path>,
    cache: &[Box<dyn LayerCache>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut writer = Writer::default();
    for (index, layer) in cache.iter().enumerate() {
        let class = writer.layer(&index.to_string(), layer.as_ref())?;
        writer
            .metadata
            .insert(format!("1.{index}"), class.to_owned());
    }
    for (key, value) in metadata {
        writer.metadata.insert(format!("0.{key}"), value.clone());
    }
    writer.metadata.insert("2.0".to_owned(), String::new());
    for (index, (place, kind)) in (1..).zip(&writer.scalars) {
        writer
            .metadata
            .insert(format!("2.{index}.0"), place.clone());
        writer
            .metadata
            .insert(format!("2.{index}.1"), (*kind).to_owned());
    }
    let arrays = writer.arrays.iter().map(|(key, array)| (key, array));
    Ok(save_safetensors(path, arrays, &writer.metadata)?)
}

/// Reads a cache and its metadata; nothing in the file is trusted.
///
/// # Errors
/// [`Error::Weights`] naming what does not fit, or if the file cannot be read.
pub fn load(path: impl AsRef<Path>) -> Result<(Cache, BTreeMap<String, String>)> {
    let file = SafetensorsFile::open(path)?;
    let mut metadata = BTreeMap::new();
    let mut classes = BTreeMap::new();
    for (key, value) in file.metadata() {
        if let Some(key) = key.strip_prefix("0.") {
            metadata.insert(key.to_owned(), value.clone());
        } else if let Some(index) = key.strip_prefix("1.") {
            let index: usize = index.parse().map_err(|_| damaged(key, "is no layer"))?;
            classes.insert(index, value.as_str());
        }
    }
    let reader = Reader { file: &file };
    let mut cache = Cache::with_capacity(classes.len());
    for (expected, (&index, class)) in classes.iter().enumerate() {
        if expected != index {
            return Err(damaged(&format!("layer {expected}"), "is missing"));
        }
        cache.push(reader.layer(&index.to_string(), class, MAX_DEPTH)?);
    }
    metadata.retain(|key, _| !key.starts_with(STATE_OFFSET));
    Ok((cache, metadata))
}

fn damaged(what: &str, message: &str) -> Error {
    Error::weights(format!("prompt cache: {what} {message}"))
}

#[derive(Default)]
struct Writer {
    arrays: Vec<(String, Array)>,
    scalars: Vec<(String, &'static str)>,
    metadata: HashMap<String, String>,
}

impl Writer {
    /// Writes a layer's state under a path and returns its class.
    fn layer(&mut self, at: &str, layer: &dyn LayerCache) -> Result<&'static str> {
        let any: &dyn Any = layer;
        if let Some(cache) = any.downcast_ref::<KvCache>() {
            let kept = match cache.offset {
                0 => None,
                _ => Some(cache.kept()?),
            };
            let packed = self.parts(at, kept.as_ref())?;
            self.scalar(format!("{at}.2"), cache.offset)?;
            if let Some(format) = packed {
                self.scalar(format!("{at}.3"), format.group_size)?;
                self.scalar(format!("{at}.4"), format.bits)?;
                return Ok("QuantizedKVCache");
            }
            return Ok("KVCache");
        }
        if let Some(cache) = any.downcast_ref::<RotatingCache>() {
            let packed = self.parts(at, cache.buffers.as_ref())?;
            let scalars = [cache.offset, cache.keep(), cache.max_size(), cache.next];
            for (index, value) in (2..).zip(scalars) {
                self.scalar(format!("{at}.{index}"), value)?;
            }
            if let Some(format) = packed {
                self.scalar(format!("{at}.6"), format.group_size)?;
                self.scalar(format!("{at}.7"), format.bits)?;
                return Ok("QuantizedRotatingKVCache");
            }
            return Ok("RotatingKVCache");
        }
        if let Some(cache) = any.downcast_ref::<ChunkedKvCache>() {
            let kept = match cache.kept.offset {
                0 => None,
                _ => {
                    let (keys, values) = cache.kept.kept()?.decode()?;
                    Some(Parts::dense(&keys, &values))
                }
            };
            self.parts(at, kept.as_ref())?;
            let scalars = [cache.offset(), cache.chunk_size(), cache.start];
            for (index, value) in (2..).zip(scalars) {
                self.scalar(format!("{at}.{index}"), value)?;
            }
            return Ok("ChunkedKVCache");
        }
        if let Some(cache) = any.downcast_ref::<StateCache>() {
            for slot in 0..cache.slots() {
                match cache.get(slot) {
                    Some(array) => self.arrays.push((format!("{at}.0.{slot}"), array.clone())),
                    None => self.none(format!("{at}.0.{slot}"))?,
                }
            }
            self.none(format!("{at}.1"))?;
            self.none(format!("{at}.2"))?;
            let key = format!("0.{STATE_OFFSET}{}", at.replace('.', ":"));
            self.metadata.insert(key, cache.offset().to_string());
            return Ok("ArraysCache");
        }
        if let Some(list) = any.downcast_ref::<CacheList>() {
            for (index, part) in list.parts().iter().enumerate() {
                let class = self.layer(&format!("{at}.{index}.0"), part.as_ref())?;
                let codes: Vec<i32> = class.bytes().map(i32::from).collect();
                let length = i32::try_from(codes.len()).unwrap_or(i32::MAX);
                let place = format!("{at}.{index}.1");
                let array = Array::from_slice::<i32>(&codes, &[length])?;
                self.arrays.push((place.clone(), array));
                self.scalars.push((place, "string"));
            }
            return Ok("CacheList");
        }
        Err(super::foreign("the cache of one sequence", "another kind"))
    }

    /// Keys and values under `at.0` and `at.1`.
    fn parts(&mut self, at: &str, parts: Option<&Parts>) -> Result<Option<KvQuantization>> {
        let Some(parts) = parts else {
            self.none(format!("{at}.0"))?;
            self.none(format!("{at}.1"))?;
            return Ok(None);
        };
        for (index, array) in parts.arrays.iter().enumerate() {
            let place = match parts.quantized {
                Some(_) => format!("{at}.{}.{}", index / 3, index % 3),
                None => format!("{at}.{index}"),
            };
            self.arrays.push((place, array.clone()));
        }
        Ok(parts.quantized)
    }

    fn scalar(&mut self, at: String, value: i32) -> Result<()> {
        self.arrays.push((at.clone(), Array::scalar(value)?));
        self.scalars.push((at, "scalar"));
        Ok(())
    }

    fn none(&mut self, at: String) -> Result<()> {
        self.arrays.push((at.clone(), Array::zeros::<f32>(&[0])?));
        self.scalars.push((at, "none"));
        Ok(())
    }
}

struct Reader<'a> {
    file: &'a SafetensorsFile,
}

impl Reader<'_> {
    fn layer(&self, at: &str, class: &str, depth: usize) -> Result<Box<dyn LayerCache>> {
        let number = |index: i32| self.scalar(&format!("{at}.{index}"));
        match class {
            "KVCache" => self.growing(at, number(2)?, None),
            "QuantizedKVCache" => {
                let format = self.format(at, 3, 4)?;
                self.growing(at, number(2)?, Some(format))
            }
            "RotatingKVCache" => self.rotating(at, None),
            "QuantizedRotatingKVCache" => {
                let format = self.format(at, 6, 7)?;
                self.rotating(at, Some(format))
            }
            "ChunkedKVCache" => {
                let (offset, size, start) = (number(2)?, number(3)?, number(4)?);
                let buffers = self.parts(at, None)?;
                let kept = offset
                    .checked_sub(start)
                    .filter(|&kept| kept >= 0 && start >= 0);
                let kept = kept.ok_or_else(|| damaged(at, "begins behind its end"))?;
                fits(at, buffers.as_ref(), kept)?;
                let kept = KvCache {
                    buffers,
                    offset: kept,
                    quantization: None,
                };
                if size < 1 {
                    return Err(damaged(at, "has chunks of no size"));
                }
                Ok(Box::new(ChunkedKvCache::resumed(kept, start, size)))
            }
            "ArraysCache" | "MambaCache" => self.states(at),
            "CacheList" if depth > 0 => {
                let mut parts: Vec<Box<dyn LayerCache>> = Vec::new();
                while self.file.contains(&format!("{at}.{}.1", parts.len())) {
                    let place = format!("{at}.{}", parts.len());
                    let class = self.text(&format!("{place}.1"))?;
                    parts.push(self.layer(&format!("{place}.0"), &class, depth - 1)?);
                }
                Ok(Box::new(CacheList::new(parts)))
            }
            _ => Err(damaged(at, &format!("is of the unknown kind `{class}`"))),
        }
    }

    fn growing(
        &self,
        at: &str,
        offset: i32,
        format: Option<KvQuantization>,
    ) -> Result<Box<dyn LayerCache>> {
        let buffers = self.parts(at, format)?;
        fits(at, buffers.as_ref(), offset)?;
        Ok(Box::new(KvCache {
            buffers,
            offset,
            quantization: format,
        }))
    }

    fn rotating(&self, at: &str, format: Option<KvQuantization>) -> Result<Box<dyn LayerCache>> {
        let number = |index: i32| self.scalar(&format!("{at}.{index}"));
        let (offset, keep, max_size, next) = (number(2)?, number(3)?, number(4)?, number(5)?);
        let buffers = self.parts(at, format)?;
        fits(at, buffers.as_ref(), next)?;
        let sizes = max_size >= 1 && (0..max_size).contains(&keep);
        let length = buffers.as_ref().map_or(Ok(0), Parts::len)?;
        // Once it has turned, the ring is full and the next place behind the sinks.
        let turned = offset > next;
        let whole = !turned || (next >= keep && length >= max_size.min(offset) && length <= offset);
        if !sizes || offset < next || !whole {
            return Err(damaged(at, "contradicts its own sizes"));
        }
        let mut cache = RotatingCache::new(max_size, keep).quantized(format);
        cache.resume(buffers, offset, next);
        Ok(Box::new(cache))
    }

    fn states(&self, at: &str) -> Result<Box<dyn LayerCache>> {
        let mut found = Vec::new();
        while self.file.contains(&format!("{at}.0.{}", found.len())) {
            found.push(self.file.read(&format!("{at}.0.{}", found.len()))?);
        }
        let mut cache = StateCache::new(found.len());
        for (slot, array) in found.into_iter().enumerate() {
            if array.size() > 0 {
                cache.set(slot, array)?;
            }
        }
        let key = format!("0.{STATE_OFFSET}{}", at.replace('.', ":"));
        if let Some(offset) = self.file.metadata().get(&key) {
            let offset = offset.parse::<i32>().ok().filter(|&offset| offset >= 0);
            cache.advance(offset.ok_or_else(|| damaged(at, "counts no tokens"))?);
        }
        Ok(Box::new(cache))
    }

    fn format(&self, at: &str, group_size: i32, bits: i32) -> Result<KvQuantization> {
        let bits = self.scalar(&format!("{at}.{bits}"))?;
        let size = self.scalar(&format!("{at}.{group_size}"))?;
        let format = KvQuantization::new(bits).group_size(size);
        format.validate()?;
        Ok(format)
    }

    /// Keys and values that fit each other, or none.
    fn parts(&self, at: &str, format: Option<KvQuantization>) -> Result<Option<Parts>> {
        if self.file.contains(&format!("{at}.0")) && self.file.shape(&format!("{at}.0"))? == [0] {
            return Ok(None);
        }
        let places: Vec<String> = match format {
            None => (0..2).map(|index| format!("{at}.{index}")).collect(),
            Some(_) => (0..6)
                .map(|i| format!("{at}.{}.{}", i / 3, i % 3))
                .collect(),
        };
        let mut arrays = Vec::with_capacity(places.len());
        for place in &places {
            arrays.push(self.file.read(place)?);
        }
        let leading = |array: &Array| match array.shape() {
            [batch, heads, length, _] => Some([*batch, *heads, *length]),
            _ => None,
        };
        let first = arrays.first().and_then(leading);
        if first.is_none() || arrays.iter().any(|array| leading(array) != first) {
            return Err(damaged(at, "has keys and values of different shapes"));
        }
        let parts = Parts {
            arrays,
            quantized: format,
        };
        if format.is_some() {
            // Codes, scales and biases that do not fit are refused here.
            drop(parts.decode()?);
        }
        Ok(Some(parts))
    }

    fn scalar(&self, place: &str) -> Result<i32> {
        let array = self.file.read(place)?;
        if array.size() != 1 || !array.dtype().is_integer() {
            return Err(damaged(place, "is not a whole number"));
        }
        let wide = astype(&array, Dtype::Int64)?.reshape(&[1])?.item::<i64>()?;
        i32::try_from(wide).map_err(|_| damaged(place, "is out of range"))
    }

    fn text(&self, place: &str) -> Result<String> {
        let array = self.file.read(place)?;
        if array.size() > 64 || !array.dtype().is_integer() {
            return Err(damaged(place, "is not a name"));
        }
        let codes = astype(&array, Dtype::Uint32)?.to_vec::<u32>()?;
        let text: Option<String> = codes.into_iter().map(char::from_u32).collect();
        text.ok_or_else(|| damaged(place, "is not a name"))
    }
}

/// Whether the buffers hold so many positions.
fn fits(at: &str, buffers: Option<&Parts>, length: i32) -> Result<()> {
    let held = buffers.map_or(Ok(0), Parts::len)?;
    if (0..=held).contains(&length) {
        Ok(())
    } else {
        Err(damaged(
            at,
            &format!("holds {held} positions, not {length}"),
        ))
    }
}
