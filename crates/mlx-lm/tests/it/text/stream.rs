//! Streamed text, put together, is the text decoded at once.

use std::time::Instant;

use mlx_lm::tokenizer::Tokenizer;

use super::{golden, ids, prose, sentencepiece};

/// Seeded so that a failure repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// Token ids; half of them from `preferred`, some that do not exist.
    fn tokens(&mut self, size: usize, preferred: &[u32]) -> Vec<u32> {
        let length = self.below(60);
        (0..length)
            .map(|_| match preferred {
                [_, ..] if self.below(2) == 0 => preferred[self.below(preferred.len())],
                _ => u32::try_from(self.below(size + 3)).unwrap(),
            })
            .collect()
    }
}

fn check(tokenizer: &Tokenizer, tokens: &[u32]) {
    for skip in [true, false] {
        let mut stream = if skip {
            tokenizer.detokenizer()
        } else {
            tokenizer.detokenizer_with_special()
        };
        // The second round shows that finishing starts afresh.
        for _ in 0..2 {
            let mut text: String = tokens
                .iter()
                .map(|&token| stream.push(token).unwrap())
                .collect();
            text += &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(tokens, skip).unwrap(), "{tokens:?}");
        }
    }
}

fn check_random(tokenizer: &Tokenizer, preferred: &[u32]) {
    let mut chance = Chance(7);
    for _ in 0..2_000 {
        check(tokenizer, &chance.tokens(tokenizer.vocab_size(), preferred));
    }
}

/// Tokens of one byte above ASCII, so that random sequences are seldom UTF-8.
fn high_bytes(tokenizer: &Tokenizer) -> Vec<u32> {
    let vocab = tokenizer.vocab();
    let mut tokens: Vec<u32> = vocab
        .iter()
        .filter(|(token, _)| {
            token.chars().count() == 1 && token.chars().all(|character| character > '\u{A0}')
        })
        .map(|(_, &id)| id)
        .collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn byte_level_streams_equal_decode() {
    let tokenizer = prose();
    check_random(&tokenizer, &high_bytes(&tokenizer));
}

#[test]
fn sentencepiece_streams_equal_decode() {
    let golden = golden("sentencepiece.json");
    let tokenizer = sentencepiece(&golden);
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let preferred: Vec<u32> = "😀漢é\n ".bytes().chain([0xFF, 0xC0]).map(byte).collect();
    check_random(&tokenizer, &preferred);
    for case in golden["decode"].as_array().unwrap() {
        check(&tokenizer, &ids(&case[0]));
    }
}

#[test]
fn every_kind_of_decoder_streams_exactly() {
    let decoders = [
        "null",
        r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}"#,
        r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}"#,
        r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###,
        r#"{"type": "BPEDecoder", "suffix": "</w>"}"#,
        r#"{"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#,
        r#"{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "▁"}, "content": " "},
            {"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "a +b"}, "content": "-"}]}"#,
        r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}"#,
    ];
    let words = [
        "▁", "▁a", "a▁▁b", "##x", "y</w>", ".", "<0x41>", "<0xC3>", "<0xA9>", "Ã", "©", " ", "é",
    ];
    let vocab: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(id, word)| format!("{word:?}: {id}"))
        .collect();
    for decoder in decoders {
        let json = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": {decoder}, "added_tokens": [{{"id": 13, "content": "<end>",
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}],
            "model": {{"type": "BPE", "vocab": {{{}}}, "merges": []}}}}"#,
            vocab.join(", ")
        );
        let tokenizer = Tokenizer::from_json(json).unwrap();
        check_random(&tokenizer, &[]);
    }
}

#[test]
fn segments_never_show_half_a_character() {
    let tokenizer = prose();
    for text in ["naïve 😀 漢字 — Straße", "👩‍👩‍👧‍👦🇫🇷 नमस्ते"]
    {
        let mut stream = tokenizer.detokenizer();
        let mut shown = String::new();
        for token in tokenizer.encode(text, false).unwrap() {
            shown += &stream.push(token).unwrap();
            assert!(text.starts_with(&shown), "{shown:?}");
        }
        assert_eq!(shown + &stream.finish().unwrap(), text);
    }
}

#[test]
fn time_grows_linearly() {
    let tokenizer = prose();
    let tokens = tokenizer.encode("no line break in sight, ", false).unwrap();
    let time = |repeats: usize| {
        let start = Instant::now();
        let mut stream = tokenizer.detokenizer();
        for &token in tokens.iter().cycle().take(tokens.len() * repeats) {
            stream.push(token).unwrap();
        }
        start.elapsed()
    };
    time(100);
    // Quadratic work would cost 400 times as much.
    let (short, long) = (time(500), time(10_000));
    assert!(long < short * 100, "{short:?} became {long:?}");
}
