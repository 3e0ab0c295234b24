//! The special tokens of a model, by their role.

use serde_json::{Map, Value};

/// Tokens that mark structure instead of text, as the checkpoint names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialTokens {
    /// Begin of sequence.
    pub bos: Option<String>,
    /// End of sequence.
    pub eos: Option<String>,
    /// Unknown piece.
    pub unk: Option<String>,
    /// Padding.
    pub pad: Option<String>,
    /// Separator.
    pub sep: Option<String>,
    /// Class marker.
    pub cls: Option<String>,
    /// Mask.
    pub mask: Option<String>,
    /// Further named tokens, for instance `image_token`, in file order.
    pub extra: Vec<(String, String)>,
}

impl SpecialTokens {
    /// Reads `bos_token`, `eos_token` and their like, each a string or an object with `content`.
    pub(crate) fn read(&mut self, config: &Map<String, Value>) {
        for (key, value) in config {
            let Some(role) = key.strip_suffix("_token") else {
                continue;
            };
            let Some(text) = token_text(value) else {
                continue;
            };
            match self.slot(role) {
                Some(slot) => *slot = Some(text),
                // `add_bos_token` and its like are flags, which `token_text` has refused already.
                None => self.extra.push((key.clone(), text)),
            }
        }
    }

    /// Takes the tokens of `other` for the roles that have none yet.
    pub(crate) fn fill(&mut self, other: Self) {
        let roles = [
            (&mut self.bos, other.bos),
            (&mut self.eos, other.eos),
            (&mut self.unk, other.unk),
            (&mut self.pad, other.pad),
        ];
        for (slot, token) in roles {
            *slot = slot.take().or(token);
        }
    }

    /// Every named token with the name that chat templates know it by.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
            ("sep_token", &self.sep),
            ("pad_token", &self.pad),
            ("cls_token", &self.cls),
            ("mask_token", &self.mask),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_deref()?)))
        .chain(
            self.extra
                .iter()
                .map(|(name, token)| (name.as_str(), token.as_str())),
        )
    }

    fn slot(&mut self, role: &str) -> Option<&mut Option<String>> {
        Some(match role {
            "bos" => &mut self.bos,
            "eos" => &mut self.eos,
            "unk" => &mut self.unk,
            "pad" => &mut self.pad,
            "sep" => &mut self.sep,
            "cls" => &mut self.cls,
            "mask" => &mut self.mask,
            _ => return None,
        })
    }
}

/// The text of a token written as a string or as a serialised `AddedToken`.
pub(crate) fn token_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_read_from_strings_and_objects() {
        let config = json!({
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "special": true},
            "pad_token": null,
            "add_bos_token": true,
            "image_token": "<img>",
        });
        let mut tokens = SpecialTokens::default();
        tokens.read(config.as_object().unwrap());
        let named: Vec<_> = tokens.named().collect();
        assert_eq!(
            named,
            [
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("image_token", "<img>")
            ]
        );
    }
}
