//! `rope_parameters` as a configuration writes it: one set, or one for each kind of layer.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::parameters::RopeParameters;

/// What a configuration holds under `rope_parameters`: one set for all layers, or one for each
/// kind of layer.
///
/// An object whose values are objects is the latter; one that holds settings beside objects is
/// refused, since nobody could say which layers the settings are for.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeParametersField {
    /// By layer type, for example `full_attention` and `sliding_attention`.
    ByLayerType(BTreeMap<String, RopeParameters>),
    /// For all layers.
    Shared(Box<RopeParameters>),
}

impl RopeParametersField {
    /// The set for layers of `layer_type`.
    #[must_use]
    pub fn for_layer_type(&self, layer_type: &str) -> Option<&RopeParameters> {
        match self {
            Self::ByLayerType(sets) => sets.get(layer_type),
            Self::Shared(parameters) => Some(parameters),
        }
    }
}

impl<'de> Deserialize<'de> for RopeParametersField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Raw { own, others } = Raw::deserialize(deserializer)?;
        let mut sets = BTreeMap::new();
        let mut setting = None;
        for (key, entry) in others {
            match entry {
                Entry::Set(set) => {
                    sets.insert(key, *set);
                }
                Entry::Null => {}
                Entry::Other => setting = Some(key),
            }
        }
        if sets.is_empty() {
            return Ok(Self::Shared(Box::new(own)));
        }
        if own != RopeParameters::default() {
            return Err(D::Error::custom(
                "settings stand beside sets for layer types",
            ));
        }
        match setting {
            Some(key) => Err(D::Error::custom(format!(
                "`{key}` stands beside sets for layer types"
            ))),
            None => Ok(Self::ByLayerType(sets)),
        }
    }
}

/// The settings that are known, and whatever else there is.
#[derive(Deserialize)]
struct Raw {
    #[serde(flatten)]
    own: RopeParameters,
    #[serde(flatten)]
    others: BTreeMap<String, Entry>,
}

/// The value of a key that is no setting.
enum Entry {
    Set(Box<RopeParameters>),
    Null,
    Other,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        let set = RopeParameters::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Entry::Set(Box::new(set)))
    }

    fn visit_unit<E>(self) -> Result<Entry, E> {
        Ok(Entry::Null)
    }

    fn visit_none<E>(self) -> Result<Entry, E> {
        Ok(Entry::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entry, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Entry::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::RopeParametersField;

    fn parse(text: &str) -> Result<RopeParametersField, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_are_sets_by_layer_type() {
        let field = parse(
            r#"{"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4},
                "chunked_attention": null}"#,
        )
        .expect("sets");
        let theta = |kind| field.for_layer_type(kind).and_then(|set| set.rope_theta);
        assert_eq!(
            (theta("full_attention"), theta("sliding_attention")),
            (Some(1e6), Some(1e4))
        );
        assert_eq!(field.for_layer_type("chunked_attention"), None);
    }

    #[test]
    fn settings_are_shared_by_all_layers() {
        let text = r#"{"rope_theta": 100000, "rope_type": "default", "of_tomorrow": [1, "a"],
            "mrope_section": [1, 2, 3], "original_max_position_embeddings": 4096}"#;
        let shared = parse(text).expect("one set");
        let set = shared.for_layer_type("any").expect("the set");
        assert_eq!(set.rope_theta, Some(1e5));
        assert_eq!(set.original_max_position_embeddings, Some(4096));
        assert_eq!(set.mrope_section, Some(vec![1, 2, 3]));
    }

    #[test]
    fn settings_beside_sets_are_refused() {
        for text in [
            r#"{"full_attention": {"rope_theta": 1e6}, "rope_theta": 1e4}"#,
            r#"{"full_attention": {"rope_theta": 1e6}, "of_tomorrow": true}"#,
        ] {
            let error = parse(text).expect_err("a mixture");
            assert!(error.contains("beside sets for layer types"), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_inside_a_set_is_an_error() {
        let error = parse(r#"{"full_attention": {"factor": "wide"}}"#).expect_err("no number");
        assert!(error.contains("invalid type: string"), "{error}");
    }
}
