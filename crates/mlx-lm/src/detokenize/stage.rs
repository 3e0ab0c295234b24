//! The streaming stages and how pieces of text flow through them.

use tokenizers::Decoder as _;
use tokenizers::decoders::DecoderWrapper;

use crate::tokenizer::{Result, TextError};

/// One stage at work, with what it holds back.
#[derive(Debug)]
pub(super) enum Stage<'a> {
    Join {
        first: bool,
    },
    ByteLevel {
        held: Vec<u8>,
    },
    /// A run of byte tokens is text only if all of it is UTF-8, so the run is held to its end.
    ByteFallback {
        run: Vec<u8>,
    },
    Each(&'a DecoderWrapper),
    ByPosition {
        decoder: &'a DecoderWrapper,
        first: bool,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
        /// Trailing `content` characters, at most `stop` of them, that may be the end of the text.
        held: usize,
    },
    Whole {
        decoder: &'a DecoderWrapper,
        fused: bool,
        held: Vec<String>,
    },
}

impl<'a> Stage<'a> {
    pub(super) fn join() -> Self {
        Self::Join { first: true }
    }

    pub(super) fn byte_level() -> Self {
        Self::ByteLevel { held: Vec::new() }
    }

    pub(super) fn byte_fallback() -> Self {
        Self::ByteFallback { run: Vec::new() }
    }

    pub(super) fn each(decoder: &'a DecoderWrapper) -> Self {
        Self::Each(decoder)
    }

    pub(super) fn by_position(decoder: &'a DecoderWrapper) -> Self {
        Self::ByPosition {
            decoder,
            first: true,
        }
    }

    pub(super) fn strip(content: char, start: usize, stop: usize) -> Self {
        Self::Strip {
            content,
            start,
            stop,
            held: 0,
        }
    }

    pub(super) fn whole(decoder: &'a DecoderWrapper, fused: bool) -> Self {
        Self::Whole {
            decoder,
            fused,
            held: Vec::new(),
        }
    }

    /// Takes a piece and returns those that are certain now.
    fn push(&mut self, piece: String) -> Result<Vec<String>> {
        Ok(match self {
            Self::Join { first: true } => {
                *self = Self::Join { first: false };
                vec![piece]
            }
            Self::Join { first: false } => vec![format!(" {piece}")],
            Self::ByteLevel { held } => {
                match piece.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                    Some(bytes) => held.extend(bytes),
                    None => held.extend(piece.as_bytes()),
                }
                vec![take_text(held, false)]
            }
            Self::ByteFallback { run } => match byte_token(&piece) {
                Some(byte) => {
                    run.push(byte);
                    Vec::new()
                }
                None => vec![end_run(run), piece],
            },
            Self::Each(decoder) => decode(decoder, vec![piece])?,
            Self::ByPosition {
                decoder,
                first: true,
            } => {
                let pieces = decode(decoder, vec![piece])?;
                *self = Self::ByPosition {
                    decoder,
                    first: false,
                };
                pieces
            }
            Self::ByPosition {
                decoder,
                first: false,
            } => {
                let mut pieces = decode(decoder, vec![String::new(), piece])?;
                pieces.pop().into_iter().collect()
            }
            Self::Strip {
                content,
                start,
                stop,
                held,
            } => vec![strip(&piece, *content, start, *stop, held)],
            Self::Whole { fused, held, .. } => {
                match held.last_mut() {
                    Some(text) if *fused => text.push_str(&piece),
                    _ => held.push(piece),
                }
                Vec::new()
            }
        })
    }

    /// Returns what is left at the end of the text.
    fn end(&mut self) -> Result<Vec<String>> {
        Ok(match self {
            Self::ByteLevel { held } => vec![take_text(held, true)],
            Self::ByteFallback { run } => vec![end_run(run)],
            Self::Whole { decoder, held, .. } if !held.is_empty() => {
                decode(decoder, std::mem::take(held))?
            }
            _ => Vec::new(),
        })
    }
}

/// Sends a piece through all stages; what comes out is appended to `text`.
pub(super) fn feed(stages: &mut [Stage<'_>], piece: String, text: &mut String) -> Result<()> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        text.push_str(&piece);
        return Ok(());
    };
    for piece in stage.push(piece)? {
        feed(rest, piece, text)?;
    }
    Ok(())
}

/// Ends the text in every stage, in order.
pub(super) fn flush(stages: &mut [Stage<'_>], text: &mut String) -> Result<()> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        return Ok(());
    };
    for piece in stage.end()? {
        feed(rest, piece, text)?;
    }
    flush(rest, text)
}

fn decode(decoder: &DecoderWrapper, pieces: Vec<String>) -> Result<Vec<String>> {
    decoder
        .decode_chain(pieces)
        .map_err(|error| TextError::Tokenize {
            operation: "decode",
            message: error.to_string(),
        })
}

/// The printable character that stands for each byte in byte-level vocabularies: the byte itself
/// if it is printable Latin-1, otherwise one from U+0100 upwards.
pub(crate) fn byte_spelling() -> Vec<char> {
    let mut next = '\u{100}'..;
    (0..=255_u8)
        .filter_map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => Some(char::from(byte)),
            _ => next.next(),
        })
        .collect()
}

/// The inverse of [`byte_spelling`].
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Takes the text off the front of `bytes` and leaves a character that is not complete yet.
fn take_text(bytes: &mut Vec<u8>, end: bool) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    while let Some(chunk) = rest.utf8_chunks().next() {
        text.push_str(chunk.valid());
        rest = rest.get(chunk.valid().len()..).unwrap_or_default();
        let incomplete = chunk.invalid().len() == rest.len() && is_incomplete(rest);
        if incomplete && !end {
            break;
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        rest = rest.get(chunk.invalid().len()..).unwrap_or_default();
    }
    *bytes = rest.to_vec();
    text
}

/// Whether more bytes could make these a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// `<0x41>` is the byte 65.
fn byte_token(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn end_run(run: &mut Vec<u8>) -> String {
    match String::from_utf8(std::mem::take(run)) {
        Ok(text) => text,
        Err(error) => "\u{FFFD}".repeat(error.as_bytes().len()),
    }
}

fn strip(piece: &str, content: char, start: &mut usize, stop: usize, held: &mut usize) -> String {
    let mut text = String::with_capacity(piece.len());
    for character in piece.chars() {
        if *start > 0 && character == content {
            *start -= 1;
            continue;
        }
        *start = 0;
        if character == content {
            *held += 1;
            if *held > stop {
                *held -= 1;
                text.push(content);
            }
        } else {
            text.extend(std::iter::repeat_n(content, std::mem::take(held)));
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_spelling_and_its_inverse_agree() {
        let spelling = byte_spelling();
        assert_eq!(spelling.len(), 256);
        for (byte, &character) in (0..=255_u8).zip(&spelling) {
            assert_eq!(byte_of(character), Some(byte));
        }
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('\u{144}'), None);
    }

    #[test]
    fn text_is_taken_as_lossy_decoding_would() {
        let samples: [&[u8]; 6] = [
            "aé漢😀".as_bytes(),
            b"\xF0\x9F\x98",
            b"\xF0\x9Fa\xE6\xBC",
            b"\xFF\xFE\xC3\xC3\xA9",
            b"\xE0\x80\x80\xED\xA0\x80\xF4\x90\x80\x80",
            b"",
        ];
        for sample in samples {
            let (mut held, mut text) = (Vec::new(), String::new());
            for &byte in sample {
                held.push(byte);
                text.push_str(&take_text(&mut held, false));
                assert!(held.len() < 4);
            }
            text.push_str(&take_text(&mut held, true));
            assert_eq!(text, String::from_utf8_lossy(sample));
        }
    }

    #[test]
    fn characters_are_stripped_across_fragments() {
        let (mut start, mut held) = (1, 0);
        let text: String = ["", "  a", " ", " b ", " "]
            .iter()
            .map(|piece| strip(piece, ' ', &mut start, 1, &mut held))
            .collect();
        assert_eq!(text, " a  b ");
    }

    #[test]
    fn byte_tokens_are_recognised() {
        assert_eq!(byte_token("<0x41>"), Some(0x41));
        assert_eq!(byte_token("<0x4>"), None);
        assert_eq!(byte_token("<0xé>"), None);
        assert_eq!(byte_token("<s>"), None);
    }
}
