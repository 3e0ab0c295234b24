//! This process's part of an array, and of a module's arrays.

use std::collections::BTreeMap;

use mlx_core::{
    Array,
    distributed::Group,
    ops::{
        indexing::slice,
        shape::{concatenate, contiguous},
    },
};

use crate::{
    Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight,
    module::parameters::parameters,
};

/// Along which axis of a linear layer its weight is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// Outputs: each process computes some of them from the whole input.
    AllToSharded,
    /// Inputs: each process has some of them, and the results are added.
    ShardedToAll,
}

impl Sharding {
    /// The axis of the array with this key, if it is cut at all.
    pub(super) fn axis(self, key: &str, array: &Array) -> Option<i32> {
        let is_bias = key.rsplit_once('.').map_or(key, |(_, name)| name) == "bias";
        match (self, is_bias) {
            (Self::ShardedToAll, true) => None,
            (Self::ShardedToAll, false) | (Self::AllToSharded, true) => Some(-1),
            (Self::AllToSharded, false) if array.ndim() < 2 => Some(0),
            (Self::AllToSharded, false) => Some(-2),
        }
    }
}

/// The parts of which a weight consists, each of which is cut for itself: three for queries, keys
/// and values in one matrix.
#[derive(Debug, Clone, PartialEq)]
pub enum Segments {
    /// Parts of the same size; one is the rule.
    Equal(i32),
    /// Where one part ends and the next begins, as fractions of the axis, in ascending order.
    Fractions(Vec<f64>),
}

impl Default for Segments {
    fn default() -> Self {
        Self::Equal(1)
    }
}

impl Segments {
    /// Where parts begin and end along an axis of this length.
    fn bounds(&self, key: &str, length: i32) -> Result<Vec<i32>> {
        let refuse = || {
            let message = format!("{self:?} do not divide an axis of {length}");
            Err(Error::weight(key, message))
        };
        let mut bounds = vec![0];
        match self {
            Self::Equal(count) => {
                if *count <= 0 || length % count != 0 {
                    return refuse();
                }
                bounds.extend((1..*count).map(|part| length / count * part));
            }
            Self::Fractions(fractions) => {
                for fraction in fractions {
                    let place = fraction * f64::from(length);
                    // Fractions such as a third are not exact.
                    if !(fraction.is_finite() && (place - place.round()).abs() < 1e-6) {
                        return refuse();
                    }
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "saturates, and is checked below"
                    )]
                    bounds.push(place.round() as i32);
                }
            }
        }
        bounds.push(length);
        if bounds.windows(2).all(|pair| pair[0] < pair[1]) {
            Ok(bounds)
        } else {
            refuse()
        }
    }
}

/// This process's part of `array`.
pub(super) fn part(
    key: &str,
    array: &Array,
    axis: i32,
    segments: &Segments,
    group: &Group,
) -> Result<Array> {
    let refuse = |message: String| Error::weight(key, message);
    let place = usize::try_from(axis)
        .ok()
        .or_else(|| array.ndim().checked_sub(usize::try_from(-axis).ok()?))
        .filter(|place| *place < array.ndim())
        .ok_or_else(|| refuse(format!("{:?} has no axis {axis}", array.shape())))?;
    let length = array.shape().get(place).copied().unwrap_or(0);
    let mut parts = Vec::new();
    for pair in segments.bounds(key, length)?.windows(2) {
        let &[from, to] = pair else { continue };
        let size = to - from;
        if size % group.size() != 0 {
            return Err(refuse(format!(
                "{size} of axis {place} of {:?} do not divide among {} processes",
                array.shape(),
                group.size()
            )));
        }
        let share = size / group.size();
        let (mut starts, mut stops) = (vec![0; array.ndim()], array.shape().to_vec());
        if let (Some(start), Some(stop)) = (starts.get_mut(place), stops.get_mut(place)) {
            *start = from + group.rank() * share;
            *stop = *start + share;
        }
        parts.push(slice(array, &starts, &stops)?);
    }
    let axis = i32::try_from(place).unwrap_or(axis);
    let joined = concatenate(&parts.iter().collect::<Vec<_>>(), axis)?;
    // A copy of its own, so that the whole array can be freed.
    Ok(contiguous(&joined, false)?)
}

/// Leaves in each array of a module this process's part, as a linear layer is cut.
///
/// The module itself does not change: what it computes from its part is a part, and what is to be
/// exchanged must be exchanged elsewhere.
///
/// # Errors
/// [`Error::Weight`] if an array does not divide among the processes, is not loaded, or has an
/// adapter; the module is unchanged then.
pub fn shard_inplace(
    module: &mut dyn Module,
    sharding: Sharding,
    segments: &Segments,
    group: &Group,
) -> Result<()> {
    let choose = |key: &str, array: &Array| {
        let axis = sharding.axis(key, array)?;
        Some((axis, segments.clone()))
    };
    shard_with(module, choose, group)
}

/// Leaves in each array of a module this process's part along the axis, and by the segments, that
/// `choose` names for its key; arrays for which it names none stay whole.
///
/// Codes and scales of a quantised weight are arrays of their own, and must be cut alike.
///
/// # Errors
/// As [`shard_inplace`].
pub fn shard_with(
    module: &mut dyn Module,
    mut choose: impl FnMut(&str, &Array) -> Option<(i32, Segments)>,
    group: &Group,
) -> Result<()> {
    let mut check = Check(Ok(()));
    module.visit(&KeyPath::root(), &mut check);
    check.0?;
    let mut parts = BTreeMap::new();
    for (key, array) in parameters(module) {
        if let Some((axis, segments)) = choose(&key, &array) {
            let part = part(&key, &array, axis, &segments, group)?;
            parts.insert(key, part);
        }
    }
    module.visit_mut(&KeyPath::root(), &mut Replace(parts))
}

/// Refuses weights without arrays, and adapters, whose matrices are cut otherwise.
struct Check(Result<()>);

impl<'a> Visitor<'a> for Check {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let message = match weight {
            Weight::Dense(_) | Weight::Quantized(_) => return Descend::Over,
            Weight::Unloaded { .. } => "not loaded, so it has no parts",
            Weight::Adapted(_) => "has an adapter: fuse it or take it out first",
        };
        if self.0.is_ok() {
            self.0 = Err(Error::weight(path.to_string(), message));
        }
        Descend::Over
    }
}

/// Puts arrays in place, whatever their shapes.
pub(super) struct Replace(pub(super) BTreeMap<String, Array>);

impl VisitorMut for Replace {
    fn parameter(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()> {
        if let Some(new) = self.0.remove(&path.to_string()) {
            *array = new;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_exact_or_refused() {
        let bounds = |segments: Segments, length| segments.bounds("w", length).ok();
        assert_eq!(bounds(Segments::Equal(3), 12), Some(vec![0, 4, 8, 12]));
        assert_eq!(bounds(Segments::Equal(5), 12), None);
        assert_eq!(bounds(Segments::Equal(0), 12), None);
        let thirds = Segments::Fractions(vec![1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(bounds(thirds.clone(), 12), Some(vec![0, 4, 8, 12]));
        assert_eq!(bounds(thirds, 16), None);
        assert_eq!(bounds(Segments::Fractions(vec![0.5, 0.25]), 16), None);
        assert_eq!(bounds(Segments::Fractions(vec![f64::NAN]), 16), None);
        assert_eq!(bounds(Segments::Fractions(vec![1e300]), 16), None);
    }
}
