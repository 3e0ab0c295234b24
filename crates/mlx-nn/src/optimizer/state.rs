//! Saved state, checked before it is taken up.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use mlx_core::{Array, Dtype};

use super::Slots;
use crate::{Error, Result, module::parameters::is_floating};

/// The arrays of each parameter, by parameter and slot.
pub(super) type Kept = BTreeMap<String, BTreeMap<String, Array>>;

/// The flat state of an optimizer, sorted.
pub(super) struct Parsed {
    pub(super) step: Array,
    pub(super) learning_rate: Option<Array>,
    pub(super) slots: Kept,
}

/// Sorts `step`, `learning_rate` and `<parameter>.<slot>`.
///
/// The learning rate may be absent: Python's Adafactor has none unless it is given one.
pub(super) fn parse(mut state: BTreeMap<String, Array>) -> Result<Parsed> {
    let step = state
        .remove("step")
        .ok_or_else(|| Error::weight("step", "missing in the state"))?;
    if step.ndim() != 0 || is_floating(step.dtype()) {
        let message = format!("expected a whole number, found {}", described(&step));
        return Err(Error::weight("step", message));
    }
    let learning_rate = state.remove("learning_rate");
    if let Some(rate) = &learning_rate
        && (rate.ndim() != 0 || !is_floating(rate.dtype()))
    {
        let message = format!("expected a single number, found {}", described(rate));
        return Err(Error::weight("learning_rate", message));
    }
    let mut slots = Kept::new();
    for (key, array) in state {
        let Some((parameter, slot)) = key.rsplit_once('.') else {
            return Err(Error::weight(key, "names no slot of a parameter"));
        };
        slots
            .entry(parameter.to_owned())
            .or_default()
            .insert(slot.to_owned(), array);
    }
    Ok(Parsed {
        step: step.astype(Dtype::Uint64)?,
        learning_rate: learning_rate
            .map(|rate| rate.astype(Dtype::Float32))
            .transpose()?,
        slots,
    })
}

/// Refuses arrays for the parameter `key` with other names or shapes than those that the rule
/// keeps, of which there is an example each.
pub(super) fn check<'e>(
    key: &str,
    found: &BTreeMap<String, Array>,
    expected: impl Iterator<Item = (&'e str, &'e Array)>,
) -> Result<()> {
    let expected: BTreeMap<&str, &Array> = expected.collect();
    let wrong = |name: &str, message: String| Err(Error::weight(format!("{key}.{name}"), message));
    for (name, array) in found {
        match expected.get(name.as_str()) {
            None => return wrong(name, "the rule keeps no such slot".to_owned()),
            Some(example) if example.shape() != array.shape() => {
                let (found, expected) = (array.shape(), example.shape());
                return wrong(name, format!("expected {expected:?}, found {found:?}"));
            }
            Some(_) => {}
        }
    }
    match expected.keys().find(|name| !found.contains_key(**name)) {
        Some(name) => wrong(name, "missing in the state".to_owned()),
        None => Ok(()),
    }
}

/// What is kept for a parameter in place of what the rule starts with.
pub(super) fn take_up(
    key: &str,
    mut slots: Slots,
    kept: &BTreeMap<String, Array>,
) -> Result<Slots> {
    check(key, kept, slots.iter().map(|(name, array)| (*name, array)))?;
    for (name, array) in &mut slots {
        if let Some(kept) = kept.get(*name) {
            *array = kept.clone();
        }
    }
    Ok(slots)
}

/// A number that no other optimizer has, and none had before: larger than all of them.
pub(super) fn next_revision() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn described(array: &Array) -> String {
    format!("{} {:?}", array.dtype(), array.shape())
}
