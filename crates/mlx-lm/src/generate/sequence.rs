//! One sequence inside a generator.

use std::time::Instant;

use mlx_core::Array;

use super::draft::DraftState;
use super::options::CancelFlag;
use super::request::{LogitsProcessor, Request, Segment, SequenceId};
use super::stats::{FinishReason, Stats};
use crate::Result;
use crate::detokenize::Detokenizer;
use crate::grammar::GrammarMatcher;
use crate::sample::{Choice, ChosenLogprobs, Sampler};
use crate::stop::StopStrings;
use crate::tokenizer::Tokenizer;

/// What is chosen and written for one sequence, without its place in a batch.
pub(super) struct Sequence<'m> {
    pub(super) id: SequenceId,
    /// Prompt and answer, as far as they are known.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: usize,
    pub(super) limit: usize,
    pub(super) keep_cache: bool,
    pub(super) cancel: CancelFlag,
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<GrammarMatcher>,
    processors: Vec<Box<dyn LogitsProcessor>>,
    pub(super) draft: DraftState<'m>,
    tokenizer: Option<&'m Tokenizer>,
    detokenizer: Option<Detokenizer<'m>>,
    stop: StopStrings,
    pub(super) started: Instant,
    first_token: Option<Instant>,
    pub(super) stats: Stats,
}

impl<'m> Sequence<'m> {
    pub(super) fn new(
        id: SequenceId,
        request: &mut Request,
        limit: usize,
        grammar: Option<GrammarMatcher>,
        tokenizer: Option<&'m Tokenizer>,
    ) -> Result<Self> {
        Ok(Self {
            id,
            tokens: request.prompt.clone(),
            prompt_len: request.prompt.len(),
            limit,
            keep_cache: request.keep_cache,
            cancel: request.cancel.clone(),
            sampler: Sampler::new(&request.sampling, &request.prompt)?,
            grammar,
            processors: std::mem::take(&mut request.processors),
            draft: DraftState::default(),
            tokenizer,
            detokenizer: tokenizer.map(Tokenizer::detokenizer),
            stop: StopStrings::new(&request.stop),
            started: Instant::now(),
            first_token: None,
            stats: Stats {
                prompt_tokens: request.prompt.len(),
                ..Stats::default()
            },
        })
    }

    pub(super) fn produced(&self) -> usize {
        self.stats.generation_tokens
    }

    /// Whether the next choice depends on numbers of tokens, and not just on
    /// arrays that hold them.
    pub(super) fn needs_tokens(&self) -> bool {
        self.grammar.is_some() || !self.processors.is_empty() || self.sampler.needs_tokens()
    }

    /// Whether the choice is the largest logit and nothing else.
    pub(super) fn is_plain_greedy(&self) -> bool {
        !self.needs_tokens() && self.sampler.is_plain_greedy()
    }

    /// Whether drafts can be checked: own processors cannot be taken back.
    pub(super) fn can_speculate(&self) -> bool {
        self.processors.is_empty()
    }

    /// Logits `[1, V]` as grammar and processors leave them.
    pub(super) fn constrained(&mut self, logits: &Array) -> Result<Array> {
        let mut logits = logits.clone();
        for processor in &mut self.processors {
            logits = processor.process(&self.tokens, &logits)?;
        }
        match &mut self.grammar {
            Some(grammar) => grammar.constrain(&logits),
            None => Ok(logits),
        }
    }

    /// Chooses a token from logits `[1, V]`.
    pub(super) fn choose(&mut self, logits: &Array) -> Result<Choice> {
        let logits = self.constrained(logits)?;
        self.sampler.choose(&logits)
    }

    /// Takes a token that was chosen: what follows depends on it.
    pub(super) fn take(
        &mut self,
        token: u32,
        logprobs: Option<&ChosenLogprobs>,
        from_draft: bool,
    ) -> Result<Segment> {
        self.clock(Instant::now());
        self.tokens.push(token);
        self.sampler.observe(token);
        let mut segment = self.write(token)?;
        segment.from_draft = from_draft;
        if let Some(logprobs) = logprobs {
            segment.logprob = Some(logprobs.chosen.item::<f32>()?);
            if let Some((ids, values)) = &logprobs.top {
                let pairs = ids
                    .to_vec::<u32>()?
                    .into_iter()
                    .zip(values.to_vec::<f32>()?);
                let mut pairs: Vec<(u32, f32)> = pairs.collect();
                pairs.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                segment.top_logprobs = pairs;
            }
        }
        Ok(segment)
    }

    fn clock(&mut self, token_at: Instant) {
        self.stats.generation_tokens += 1;
        let first = *self.first_token.get_or_insert(token_at);
        self.stats.prompt_time = first - self.started;
        self.stats.generation_time = token_at - first;
    }

    fn write(&mut self, token: u32) -> Result<Segment> {
        let is_eos = self
            .tokenizer
            .is_some_and(|tokenizer| tokenizer.is_eos(token));
        let complete = match &mut self.grammar {
            Some(grammar) if !is_eos => {
                grammar.consume(token)?;
                grammar.is_stopped()
            }
            _ => false,
        };
        if is_eos {
            return self.finish(token, String::new(), FinishReason::Stop);
        }
        let text = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.push(token)?,
            None => String::new(),
        };
        let (text, stopped) = self.stop.push(&text);
        if stopped {
            self.stats.finish_reason = Some(FinishReason::Stop);
            return Ok(self.segment(text, token));
        }
        if complete {
            return self.finish(token, text, FinishReason::Stop);
        }
        if self.produced() >= self.limit {
            return self.finish(token, text, FinishReason::Length);
        }
        Ok(self.segment(text, token))
    }

    /// The last segment: whatever the detokenizer and the stop matcher held back.
    fn finish(&mut self, token: u32, mut text: String, reason: FinishReason) -> Result<Segment> {
        let rest = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.finish()?,
            None => String::new(),
        };
        let (rest, stopped) = self.stop.push(&rest);
        text.push_str(&rest);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        let reason = if stopped { FinishReason::Stop } else { reason };
        self.stats.finish_reason = Some(reason);
        Ok(self.segment(text, token))
    }

    fn segment(&self, text: String, token: u32) -> Segment {
        Segment {
            text,
            token,
            logprob: None,
            top_logprobs: Vec::new(),
            from_draft: false,
            finish_reason: self.stats.finish_reason,
        }
    }
}
