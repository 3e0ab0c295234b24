//! How a tokenizer's decoder is taken apart into streaming stages.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::Tokenizer as Backend;
use tokenizers::decoders::DecoderWrapper;

use super::stage::Stage;
use crate::tokenizer::{Result, TextError};

/// The decoder of one tokenizer, prepared once and started for every text.
#[derive(Debug)]
pub(crate) struct DecodePlan {
    steps: Vec<Step>,
    special: HashSet<u32>,
}

/// One step of the plan. Steps after [`Step::Fuse`] and [`Step::ByteLevel`] see one long token in
/// fragments, earlier ones see whole tokens.
#[derive(Debug)]
enum Step {
    /// Puts spaces between tokens: what happens without any decoder.
    Join,
    ByteLevel,
    ByteFallback,
    Fuse,
    /// Looks at each token by itself.
    EachToken(DecoderWrapper),
    /// Looks at each token and at whether it is the first.
    ByPosition(DecoderWrapper),
    /// Replaces single characters, so fragments can be treated by themselves.
    EachFragment(DecoderWrapper),
    StripFragments {
        content: char,
        start: usize,
        stop: usize,
    },
    /// Needs the whole text, which is therefore held back to its end.
    Whole {
        decoder: DecoderWrapper,
        fused: bool,
    },
}

impl DecodePlan {
    pub(crate) fn new(backend: &Backend) -> Result<Self> {
        let mut steps = Vec::new();
        match backend.get_decoder() {
            Some(decoder) => {
                let mut fused = false;
                plan(decoder, &mut fused, &mut steps)?;
            }
            None => steps.push(Step::Join),
        }
        if steps.iter().any(|step| matches!(step, Step::Whole { .. })) {
            tracing::warn!(
                "this tokenizer's decoder needs the whole text: nothing can be streamed"
            );
        }
        let special = backend
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| id)
            .collect();
        Ok(Self { steps, special })
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    pub(super) fn start(&self) -> Vec<Stage<'_>> {
        self.steps
            .iter()
            .filter_map(|step| {
                Some(match step {
                    Step::Join => Stage::join(),
                    Step::ByteLevel => Stage::byte_level(),
                    Step::ByteFallback => Stage::byte_fallback(),
                    Step::Fuse => return None,
                    Step::EachToken(decoder) | Step::EachFragment(decoder) => Stage::each(decoder),
                    Step::ByPosition(decoder) => Stage::by_position(decoder),
                    Step::StripFragments {
                        content,
                        start,
                        stop,
                    } => Stage::strip(*content, *start, *stop),
                    Step::Whole { decoder, fused } => Stage::whole(decoder, *fused),
                })
            })
            .collect()
    }
}

fn plan(decoder: &DecoderWrapper, fused: &mut bool, steps: &mut Vec<Step>) -> Result<()> {
    let step = match decoder {
        DecoderWrapper::Sequence(sequence) => {
            return sequence
                .get_decoders()
                .iter()
                .try_for_each(|decoder| plan(decoder, fused, steps));
        }
        DecoderWrapper::Fuse(_) => {
            *fused = true;
            Step::Fuse
        }
        DecoderWrapper::ByteLevel(_) if !*fused => {
            *fused = true;
            Step::ByteLevel
        }
        DecoderWrapper::ByteFallback(_) if !*fused => Step::ByteFallback,
        DecoderWrapper::Strip(strip) if *fused => Step::StripFragments {
            content: strip.content,
            start: strip.start,
            stop: strip.stop,
        },
        DecoderWrapper::Strip(_) | DecoderWrapper::Replace(_) if !*fused => {
            Step::EachToken(decoder.clone())
        }
        DecoderWrapper::Replace(_) if replaces_one_character(decoder)? => {
            Step::EachFragment(decoder.clone())
        }
        DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_) if !*fused => {
            Step::ByPosition(decoder.clone())
        }
        _ => Step::Whole {
            decoder: decoder.clone(),
            fused: *fused,
        },
    };
    steps.push(step);
    Ok(())
}

fn replaces_one_character(decoder: &DecoderWrapper) -> Result<bool> {
    let json =
        serde_json::to_value(decoder).map_err(|error| TextError::format("decoder", error))?;
    let pattern = json.pointer("/pattern/String").and_then(Value::as_str);
    Ok(pattern.is_some_and(|pattern| pattern.chars().count() == 1))
}
