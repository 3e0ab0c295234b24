//! Many sequences at once.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use mlx_core::ops::indexing::slice;
use mlx_core::{Array, Stream, async_eval, memory};

use super::batch::{Batch, Departure};
use super::draft::Speculation;
use super::prefill::{self, Prefill, Ready};
use super::request::{Event, Request, SequenceId};
use super::sequence::Sequence;
use super::speculative;
use super::stats::{FinishReason, Stats};
use crate::cache::{self, CacheOptions};
use crate::grammar::GrammarCompiler;
use crate::prefix::PrefixStore;
use crate::tokenizer::Tokenizer;
use crate::{Error, LanguageModel, Result};

/// Freed buffers go back to the system after this many steps.
const CLEAR_CACHE_EVERY: usize = 256;

/// Settings of a [`Generator`].
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct GeneratorOptions {
    /// Sequences that decode at the same time; others wait.
    pub max_batch: usize,
    /// How caches are made.
    pub cache: CacheOptions,
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            max_batch: 32,
            cache: CacheOptions::default(),
        }
    }
}

impl GeneratorOptions {
    /// Sets [`max_batch`](Self::max_batch).
    pub fn max_batch(mut self, sequences: usize) -> Self {
        self.max_batch = sequences;
        self
    }

    /// Sets [`cache`](Self::cache).
    pub fn cache(mut self, options: CacheOptions) -> Self {
        self.cache = options;
        self
    }
}

/// Generates for any number of sequences, which join and leave at any step
/// (continuous batching).
///
/// Each has its own sampling, random key, grammar, stop strings, limits and
/// cancellation, and its tokens are those that it would have alone. A step
/// processes at most one chunk of waiting prompts, of a long one or of several
/// short ones, and one token of every sequence in decoding; while a caller handles what came of it, the device
/// already computes the next.
///
/// ```no_run
/// use mlx_lm::generate::{Event, Generator, Request};
///
/// let model = mlx_lm::load("models/qwen3-0.6b")?;
/// let mut generator = Generator::new(model.model()).tokenizer(model.tokenizer());
/// for question in ["Name a river.", "Name a mountain."] {
///     let prompt = model.tokenizer().encode(question, true)?;
///     generator.insert(Request::new(prompt).max_tokens(40))?;
/// }
/// while !generator.is_idle() {
///     for event in generator.step()? {
///         if let Event::Segment { id, segment } = event {
///             println!("{id:?}: {}", segment.text);
///         }
///     }
/// }
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[must_use]
pub struct Generator<'m> {
    model: &'m dyn LanguageModel,
    tokenizer: Option<&'m Tokenizer>,
    options: GeneratorOptions,
    compiler: Option<GrammarCompiler>,
    speculation: Option<Speculation<'m>>,
    prefixes: Option<PrefixStore>,
    waiting: VecDeque<Prefill<'m>>,
    batch: Batch<'m>,
    /// What a failed step had to tell.
    untold: Vec<Event>,
    next_id: u64,
    steps: usize,
}

impl fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator")
            .field("waiting", &self.waiting.len())
            .field("decoding", &self.batch.rows.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for Generator<'_> {
    fn drop(&mut self) {
        // The step ahead may still be computed, from arrays that go with this.
        let _failed = Stream::current().synchronize();
    }
}

impl<'m> Generator<'m> {
    /// A generator of token ids.
    pub fn new(model: &'m dyn LanguageModel) -> Self {
        Self {
            model,
            tokenizer: None,
            options: GeneratorOptions::default(),
            compiler: None,
            speculation: None,
            prefixes: None,
            waiting: VecDeque::new(),
            batch: Batch::default(),
            untold: Vec::new(),
            next_id: 0,
            steps: 0,
        }
    }

    /// Writes text too, and ends answers at the tokens that end them.
    pub fn tokenizer(mut self, tokenizer: &'m Tokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// Sets limits and caches.
    pub fn options(mut self, options: GeneratorOptions) -> Self {
        self.options = options;
        self
    }

    /// Compiles grammars with what is there already; without it, the first
    /// request with a grammar looks at the whole vocabulary.
    pub fn grammar_compiler(mut self, compiler: GrammarCompiler) -> Self {
        self.compiler = Some(compiler);
        self
    }

    /// Proposes several tokens at a time and lets the model check them at once.
    pub fn speculation(mut self, speculation: Speculation<'m>) -> Self {
        self.speculation = Some(speculation);
        self
    }

    /// Begins prompts with what an earlier one has left in the store.
    pub fn prefix_store(mut self, store: PrefixStore) -> Self {
        self.prefixes = Some(store);
        self
    }

    /// The store of prefixes, if there is one.
    #[must_use]
    pub fn prefixes(&self) -> Option<&PrefixStore> {
        self.prefixes.as_ref()
    }

    /// Sequences that wait or have their prompt processed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences in decoding.
    #[must_use]
    pub fn decoding(&self) -> usize {
        self.batch.rows.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.batch.is_empty() && self.untold.is_empty()
    }

    /// Takes a sequence in; it starts with one of the next steps.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::Grammar`], or
    /// [`Error::Option`] if a value is out of range.
    pub fn insert(&mut self, mut request: Request) -> Result<SequenceId> {
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.options.cache.validate()?;
        if request.cache_precedes && (request.keep_cache || !request.snapshots.is_empty()) {
            return Err(Error::Option {
                option: "cache_precedes",
                message: "leaves a cache of unknown tokens, which cannot be handed out".to_owned(),
            });
        }
        if !request.stop.is_empty() && self.tokenizer.is_none() {
            return Err(Error::Option {
                option: "stop",
                message: "needs a generator with a tokenizer, because it is text".to_owned(),
            });
        }
        let limit = self.limit(&request)?;
        let grammar = match &request.grammar {
            Some(grammar) => Some(self.compiler()?.compile(grammar)?),
            None => None,
        };
        let id = SequenceId(self.next_id);
        let mut sequence = Sequence::new(id, &mut request, limit, grammar, self.tokenizer)?;
        if let Some(speculation) = &self.speculation {
            sequence.draft = speculation.start(self.model, &request.sampling)?;
        }
        let cache = match (request.cache.take(), &mut self.prefixes) {
            (Some(cache), _) => Some(cache),
            (None, Some(store)) if request.embeddings.is_none() => {
                store.fetch(&request.prompt).map(|(_, cache)| cache)
            }
            _ => None,
        };
        let is_known = cache.is_some();
        let cache = cache.unwrap_or_else(|| self.model.make_cache(&self.options.cache));
        let mut prefill = Prefill::new(sequence, request, cache)?;
        prefill.may_share &= !is_known;
        self.waiting.push_back(prefill);
        self.next_id += 1;
        Ok(id)
    }

    /// Counts and times of the first sequence in decoding.
    pub(super) fn stats(&self) -> Option<Stats> {
        self.batch.rows.first().map(|sequence| sequence.stats)
    }

    fn limit(&self, request: &Request) -> Result<usize> {
        let context = self.model.max_position_embeddings();
        let context = context.and_then(|size| usize::try_from(size).ok());
        let (Some(context), None) = (context, self.options.cache.max_kv_size) else {
            return Ok(request.max_tokens);
        };
        let before = match (&request.cache, request.cache_precedes) {
            (Some(cache), true) => super::held(cache),
            _ => 0,
        };
        let tokens = request.prompt.len().saturating_add(before);
        let room = context.checked_sub(tokens).filter(|&room| room > 0);
        let room = room.ok_or(Error::PromptTooLong {
            tokens,
            limit: context,
        })?;
        Ok(request.max_tokens.min(room))
    }

    fn compiler(&mut self) -> Result<&GrammarCompiler> {
        if self.compiler.is_none() {
            let tokenizer = self.tokenizer.ok_or_else(|| Error::Grammar {
                message: "needs a generator with a tokenizer".to_owned(),
            })?;
            self.compiler = Some(GrammarCompiler::new(tokenizer)?);
        }
        self.compiler.as_ref().ok_or(Error::Cancelled)
    }

    /// Asks a sequence to leave; its [`Event::Failed`] with
    /// [`Error::Cancelled`] comes with the next step.
    pub fn cancel(&mut self, id: SequenceId) {
        let waiting = self.waiting.iter().map(|prefill| &prefill.sequence);
        for sequence in waiting.chain(&self.batch.rows) {
            if sequence.id == id {
                sequence.cancel.cancel();
            }
        }
    }

    /// Does the next piece of work and tells what came of it.
    ///
    /// # Errors
    /// If the model itself fails, the sequences in decoding are lost; those
    /// that wait are not. What was there to tell by then comes with the next
    /// step. What concerns one sequence only is an [`Event::Failed`].
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let stepped = self.work(&mut events);
        let mut told = std::mem::take(&mut self.untold);
        told.append(&mut events);
        match stepped {
            Ok(()) => Ok(told),
            Err(error) => {
                self.untold = told;
                Err(error)
            }
        }
    }

    fn work(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.drop_cancelled(events)?;
        self.prefill(events)?;
        let stepped = match &self.speculation {
            Some(speculation) => {
                speculative::step(&mut self.batch, self.model, speculation, events)
            }
            None => self.batch.step(self.model, events),
        };
        if let Err(error) = stepped {
            self.batch = Batch::default();
            return Err(error);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(CLEAR_CACHE_EVERY) {
            memory::clear_cache()?;
        }
        self.remember(events)
    }

    fn drop_cancelled(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.waiting.retain(|prefill| {
            let stays = !prefill.sequence.cancel.is_cancelled();
            if !stays {
                events.push(Event::Failed {
                    id: prefill.sequence.id,
                    error: Error::Cancelled,
                });
            }
            stays
        });
        let rows = self.batch.rows.iter().enumerate();
        let gone: Vec<Departure> = rows
            .filter(|(_, sequence)| sequence.cancel.is_cancelled())
            .map(|(row, _)| Departure {
                row,
                error: Some(Error::Cancelled),
            })
            .collect();
        self.batch.leave(gone, None, events)
    }

    /// Processes one chunk of the first prompt in line, or several prompts if a chunk holds them.
    fn prefill(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let limit = self.options.max_batch.max(1);
        let room = limit.saturating_sub(self.batch.rows.len());
        if room == 0 {
            return Ok(());
        }
        let sharing = prefill::sharing(&self.waiting, room);
        if sharing > 1 {
            return self.prefill_together(sharing, events);
        }
        let Some(mut prefill) = self.waiting.pop_front() else {
            return Ok(());
        };
        let (id, total) = (prefill.sequence.id, prefill.sequence.prompt_len);
        if !prefill.begun {
            prefill.begun = true;
            prefill.sequence.started = Instant::now();
            let done = prefill.done;
            events.push(Event::Prefill { id, done, total });
        }
        if prefill.sequence.limit == 0 {
            let mut stats = prefill.sequence.stats;
            stats.finish_reason = Some(FinishReason::Length);
            events.push(Event::Finished {
                id,
                stats,
                cache: None,
            });
            return Ok(());
        }
        if !prefill.is_at_end() {
            match prefill.advance(self.model) {
                Ok(due) => {
                    let done = prefill.done;
                    events.push(Event::Prefill { id, done, total });
                    if due {
                        let tokens = prefill.sequence.tokens.iter().take(done);
                        events.push(Event::Snapshot {
                            id,
                            tokens: tokens.copied().collect(),
                            cache: prefill.cache.clone(),
                        });
                    }
                }
                Err(error) => {
                    events.push(Event::Failed { id, error });
                    return Ok(());
                }
            }
            // What is left is one token, which is not worth a step of its own.
            if !prefill.is_at_end() {
                self.waiting.push_front(prefill);
                return Ok(());
            }
        }
        match prefill.finish(self.model) {
            Ok(ready) => {
                let done = total;
                events.push(Event::Prefill { id, done, total });
                self.batch.join(ready)
            }
            Err(error) => {
                events.push(Event::Failed { id, error });
                Ok(())
            }
        }
    }

    /// Processes the first `count` prompts in line in one pass.
    fn prefill_together(&mut self, count: usize, events: &mut Vec<Event>) -> Result<()> {
        let mut group: Vec<Prefill<'m>> = self.waiting.drain(..count).collect();
        for prefill in &mut group {
            prefill.sequence.started = Instant::now();
        }
        let Ok((mut cache, logits)) = prefill::together(self.model, &group) else {
            // What is wrong with one of them, or with all of them together, shows when each
            // has its own turn.
            for mut prefill in group.drain(..).rev() {
                prefill.may_share = false;
                self.waiting.push_front(prefill);
            }
            return Ok(());
        };
        let (mut sequences, mut choices, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let vocab = logits.dim(1)?;
        for (row, prefill) in (0..).zip(group) {
            let mut sequence = prefill.sequence;
            let (id, total) = (sequence.id, sequence.prompt_len);
            match sequence.choose(&slice(&logits, &[row, 0], &[row + 1, vocab])?) {
                Ok(choice) => {
                    events.extend([0, total].map(|done| Event::Prefill { id, done, total }));
                    sequences.push(sequence);
                    choices.push(choice);
                    rows.push(row);
                }
                Err(error) => events.push(Event::Failed { id, error }),
            }
        }
        if sequences.len() < count {
            cache = cache::select(&cache, &rows)?;
        }
        let tokens: Vec<&Array> = choices.iter().map(|choice| &choice.token).collect();
        async_eval(&tokens)?;
        match sequences.is_empty() {
            true => Ok(()),
            false => self.batch.join(Ready {
                sequences,
                cache,
                choices,
            }),
        }
    }

    /// Keeps caches that went out in the prefix store.
    fn remember(&mut self, events: &[Event]) -> Result<()> {
        let Some(store) = &mut self.prefixes else {
            return Ok(());
        };
        for event in events {
            match event {
                Event::Snapshot { tokens, cache, .. }
                | Event::Finished {
                    cache: Some((tokens, cache)),
                    ..
                } => store.insert(tokens, cache.clone())?,
                _ => {}
            }
        }
        Ok(())
    }
}
