//! Arrays by checkpoint key, and the named steps that adapt foreign checkpoints.

use std::{
    collections::{BTreeMap, btree_map},
    path::Path,
};

use mlx_core::{
    Array, io,
    ops::shape::{moveaxis, stack},
};

use crate::{Error, Result};

/// The arrays of a checkpoint, by key.
///
/// A model whose published checkpoints differ from its own keys adapts them before
/// [`load_weights`](crate::load_weights) with the steps below. None of them overwrites an array:
/// a collision is an error.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Weights;
///
/// let mut weights = Weights::new();
/// weights.insert("language_model.norm.weight", Array::ones::<f32>(&[4])?)?;
/// weights.insert("rotary_emb.inv_freq", Array::ones::<f32>(&[2])?)?;
/// weights.rename_prefix("language_model.", "model.")?;
/// weights.drop_suffix("rotary_emb.inv_freq");
/// assert_eq!(weights.keys().collect::<Vec<_>>(), ["model.norm.weight"]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Weights(BTreeMap<String, Array>);

impl Weights {
    /// No arrays.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Reads a safetensors file; arrays are loaded when they are first used.
    ///
    /// # Errors
    /// [`Error::Core`] if the file cannot be read or is malformed.
    pub fn load_safetensors(path: impl AsRef<Path>) -> Result<Self> {
        let (arrays, _) = io::load_safetensors(path)?;
        Ok(arrays.into_iter().collect())
    }

    /// Reads an npz file.
    ///
    /// # Errors
    /// [`Error::Core`] if the file cannot be read or is malformed.
    pub fn load_npz(path: impl AsRef<Path>) -> Result<Self> {
        Ok(io::load_npz(path)?.into_iter().collect())
    }

    /// The number of arrays.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no array.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is an array under `key`.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The array under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Array> {
        self.0.get(key)
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The keys and arrays, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.0.iter().map(|(key, array)| (key.as_str(), array))
    }

    /// Removes and returns the array under `key`.
    pub fn take(&mut self, key: &str) -> Option<Array> {
        self.0.remove(key)
    }

    /// Adds an array under a new key.
    ///
    /// # Errors
    /// [`Error::Weight`] if there is an array under `key` already; it stays.
    pub fn insert(&mut self, key: impl Into<String>, array: Array) -> Result<()> {
        match self.0.entry(key.into()) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(array);
                Ok(())
            }
            btree_map::Entry::Occupied(entry) => {
                Err(Error::weight(entry.key(), "two arrays would have this key"))
            }
        }
    }

    /// Adds all arrays of another checkpoint, for example of the next shard.
    ///
    /// # Errors
    /// [`Error::Weight`] if both hold the same key.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        other
            .0
            .into_iter()
            .try_for_each(|(key, array)| self.insert(key, array))
    }

    /// Gives each key the name that `rename` returns; `None` leaves it alone.
    ///
    /// # Errors
    /// [`Error::Weight`] if two arrays would have the same key; nothing is renamed then.
    pub fn rename_with(&mut self, mut rename: impl FnMut(&str) -> Option<String>) -> Result<()> {
        let mut renamed = Self::new();
        for (key, array) in &self.0 {
            renamed.insert(rename(key).unwrap_or_else(|| key.clone()), array.clone())?;
        }
        *self = renamed;
        Ok(())
    }

    /// Renames `<from>…` to `<to>…`; an empty `from` puts `to` before every key.
    ///
    /// # Errors
    /// [`Error::Weight`] if two arrays would have the same key; nothing is renamed then.
    pub fn rename_prefix(&mut self, from: &str, to: &str) -> Result<()> {
        self.rename_with(|key| key.strip_prefix(from).map(|rest| format!("{to}{rest}")))
    }

    /// Renames `…<from>` to `…<to>`.
    ///
    /// # Errors
    /// [`Error::Weight`] if two arrays would have the same key; nothing is renamed then.
    pub fn rename_suffix(&mut self, from: &str, to: &str) -> Result<()> {
        self.rename_with(|key| key.strip_suffix(from).map(|rest| format!("{rest}{to}")))
    }

    /// Removes every key that starts with `prefix` and returns how many there were.
    pub fn drop_prefix(&mut self, prefix: &str) -> usize {
        self.drop_where(|key| key.starts_with(prefix))
    }

    /// Removes every key that ends with `suffix` and returns how many there were.
    pub fn drop_suffix(&mut self, suffix: &str) -> usize {
        self.drop_where(|key| key.ends_with(suffix))
    }

    /// Removes every key for which `unwanted` holds and returns how many there were.
    pub fn drop_where(&mut self, mut unwanted: impl FnMut(&str) -> bool) -> usize {
        let before = self.0.len();
        self.0.retain(|key, _| !unwanted(key));
        before - self.0.len()
    }

    /// Stacks the weights of numbered experts along a new first axis, in every layer at once:
    /// `…<from>.0.<rest>`, `…<from>.1.<rest>`, … become `…<to>.<rest>`.
    ///
    /// Does nothing where no key matches, so that checkpoints stacked already pass unchanged.
    ///
    /// # Errors
    /// [`Error::Weight`] if one of the `count` experts lacks an array that another one has, or
    /// there are more experts than that; [`Error::Core`] if their shapes differ.
    pub fn stack_experts(&mut self, from: &str, to: &str, count: usize) -> Result<()> {
        let mut groups = BTreeMap::<(String, String), BTreeMap<usize, String>>::new();
        for key in self.0.keys() {
            if let Some((prefix, expert, rest)) = split_numbered(key, from) {
                let group = groups
                    .entry((prefix.to_owned(), rest.to_owned()))
                    .or_default();
                group.insert(expert, key.clone());
            }
        }
        for ((prefix, rest), members) in groups {
            if let Some(missing) = (0..count).find(|expert| !members.contains_key(expert)) {
                return Err(Error::weight(
                    format!("{prefix}{from}.{missing}.{rest}"),
                    format!("missing, one of {count} experts"),
                ));
            }
            if let Some((_, key)) = members.range(count..).next() {
                return Err(Error::weight(
                    key,
                    format!("beyond the {count} experts of the model"),
                ));
            }
            let experts: Vec<Array> = members
                .values()
                .filter_map(|key| self.0.remove(key))
                .collect();
            let stacked = stack(&experts.iter().collect::<Vec<_>>(), 0)?;
            self.insert(format!("{prefix}{to}.{rest}"), stacked)?;
        }
        Ok(())
    }

    /// Moves the input channels of convolution weights last: `[out, in, k..] → [out, k.., in]`,
    /// for every key that ends with `suffix`.
    ///
    /// # Errors
    /// [`Error::Weight`] if such an array has fewer than three axes.
    pub fn conv_to_channels_last(&mut self, suffix: &str) -> Result<()> {
        for (key, array) in &mut self.0 {
            if key.ends_with(suffix) {
                if array.ndim() < 3 {
                    let message = format!("{:?} is no convolution weight", array.shape());
                    return Err(Error::weight(key.as_str(), message));
                }
                *array = moveaxis(array, 1, -1)?;
            }
        }
        Ok(())
    }

    /// The arrays by key.
    #[must_use]
    pub fn into_inner(self) -> BTreeMap<String, Array> {
        self.0
    }
}

impl FromIterator<(String, Array)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Array)>>(arrays: I) -> Self {
        Self(arrays.into_iter().collect())
    }
}

impl IntoIterator for Weights {
    type Item = (String, Array);
    type IntoIter = btree_map::IntoIter<String, Array>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Splits `<prefix><name>.<number>.<rest>`, where `name` is made of whole segments.
fn split_numbered<'k>(key: &'k str, name: &str) -> Option<(&'k str, usize, &'k str)> {
    key.match_indices(name).find_map(|(start, _)| {
        let (prefix, tail) = key.split_at_checked(start)?;
        if !(prefix.is_empty() || prefix.ends_with('.')) {
            return None;
        }
        let (number, rest) = tail
            .strip_prefix(name)?
            .strip_prefix('.')?
            .split_once('.')?;
        Some((prefix, number.parse().ok()?, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::split_numbered;

    #[test]
    fn numbered_keys_split_at_whole_segments() {
        assert_eq!(
            split_numbered("layers.3.mlp.experts.12.up.weight", "mlp.experts"),
            Some(("layers.3.", 12, "up.weight"))
        );
        assert_eq!(split_numbered("experts.0.w", "experts"), Some(("", 0, "w")));
        assert_eq!(split_numbered("shared_experts.0.w", "experts"), None);
        assert_eq!(split_numbered("experts.gate.w", "experts"), None);
        assert_eq!(split_numbered("experts.0", "experts"), None);
    }
}
