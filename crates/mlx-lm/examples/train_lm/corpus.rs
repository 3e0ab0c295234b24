//! From texts to batches of tokens.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use mlx_core::Array;
use mlx_lm::tokenizer::Tokenizer;
use mlx_nn::train::Dataset;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::Result;

/// What ends a document, and the only special token of a tokenizer that is trained here.
const END: &str = "<|endoftext|>";

/// Documents as one stream of tokens, each ended by `<|endoftext|>`.
pub(crate) struct Corpus {
    pub(crate) tokens: Vec<u32>,
    pub(crate) characters: usize,
}

impl Corpus {
    pub(crate) fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let end = tokenizer
            .token_to_id(END)
            .ok_or_else(|| format!("the tokenizer has no {END}"))?;
        let mut corpus = Self {
            tokens: Vec::new(),
            characters: 0,
        };
        for text in texts(path)? {
            corpus.characters += text.chars().count();
            corpus.tokens.extend(tokenizer.encode(&text, false)?);
            corpus.tokens.push(end);
        }
        Ok(corpus)
    }

    /// A loss per token as one per character, which does not depend on the tokenizer.
    pub(crate) fn per_character(&self, loss: f64) -> f64 {
        let number = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
        loss * number(self.tokens.len()) / number(self.characters)
    }
}

fn texts(path: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Line {
        text: String,
    }
    let file = File::open(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let mut texts = Vec::new();
    for line in BufReader::new(file).lines() {
        texts.push(serde_json::from_str::<Line>(&line?)?.text);
    }
    Ok(texts)
}

/// Trains a byte-level BPE on the training texts.
pub(crate) fn train_tokenizer(data: &Path, vocab: usize, out: &Path) -> Result<()> {
    let byte_level = ByteLevel::default()
        .add_prefix_space(false)
        .trim_offsets(true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_normalizer(None)
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_post_processor(None)
    .with_decoder(Some(ByteLevel::default().into()))
    .build()?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts(&data.join("train.jsonl"))?.into_iter())?;
    tokenizer.save(out, true)?;
    Ok(())
}

/// Windows of a stream of tokens, at other places in each pass.
pub(crate) struct Tokens {
    pub(crate) tokens: Vec<u32>,
    pub(crate) context: usize,
    pub(crate) seed: u64,
}

impl Dataset for Tokens {
    fn len(&self) -> usize {
        // One window less than fit, which leaves room for the shift of a pass.
        (self.tokens.len() / self.context).saturating_sub(2)
    }

    fn batch(&self, samples: &[usize], epoch: u64) -> mlx_nn::Result<(Vec<Array>, u64)> {
        let shift = self.shift(epoch);
        let starts = samples.iter().map(|sample| shift + sample * self.context);
        windows(&self.tokens, starts, self.context)
    }
}

impl Tokens {
    fn shift(&self, epoch: u64) -> usize {
        // Any number that spreads over the window will do, as long as it is always the same.
        let mixed = (epoch ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).unwrap_or(0) % self.context
    }
}

/// Inputs and targets `[B, L]` of the windows that begin at `starts`, and their number of tokens.
pub(crate) fn windows(
    tokens: &[u32],
    starts: impl ExactSizeIterator<Item = usize>,
    context: usize,
) -> mlx_nn::Result<(Vec<Array>, u64)> {
    let outside = || mlx_core::Error::Backend("a window outside the corpus".to_owned());
    let count = starts.len();
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for start in starts {
        let window = tokens.get(start..=start + context).ok_or_else(outside)?;
        inputs.extend_from_slice(window.get(..context).ok_or_else(outside)?);
        targets.extend_from_slice(window.get(1..).ok_or_else(outside)?);
    }
    let dim = |n: usize| i32::try_from(n).map_err(|_| outside());
    let shape = [dim(count)?, dim(context)?];
    let arrays = vec![
        Array::from_slice(&inputs, &shape)?,
        Array::from_slice(&targets, &shape)?,
    ];
    Ok((arrays, u64::try_from(count * context).unwrap_or(u64::MAX)))
}
