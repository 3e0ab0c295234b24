//! Whether two models speak of the same tokens.

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Refuses a draft model whose tokens stand for other texts: its proposals
/// would be nonsense, and every one of them turned down.
///
/// Models of one family often differ in how many special tokens they know, so
/// only what both know must agree, and most of it must be known to both.
pub(super) fn check(model: &Tokenizer, draft: &Tokenizer) -> Result<()> {
    let (known, proposed) = (model.vocab(), draft.vocab());
    let mut shared = 0;
    let mut differing: Vec<(u32, &String, u32)> = Vec::new();
    for (token, &id) in &proposed {
        match known.get(token) {
            Some(&own) if own == id => shared += 1,
            Some(&own) => differing.push((id, token, own)),
            None => {}
        }
    }
    let message = match differing.iter().min() {
        Some((id, token, own)) => {
            format!("has another vocabulary: token `{token}` is {id} there and {own} in the model")
        }
        None if shared < proposed.len().min(known.len()) / 2 => {
            format!(
                "has another vocabulary: it shares {shared} of its {} tokens with the model",
                proposed.len()
            )
        }
        None => return Ok(()),
    };
    Err(Error::Option {
        option: "draft_model",
        message,
    })
}
