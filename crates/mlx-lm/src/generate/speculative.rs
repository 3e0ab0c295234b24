//! Checking of proposed tokens, several sequences at a time.

use mlx_core::ops::arithmetic::{exp, log, maximum, subtract};
use mlx_core::ops::comparison::{equal, less};
use mlx_core::ops::indexing::{slice, take_along_axis, r#where};
use mlx_core::ops::misc::astype;
use mlx_core::ops::random;
use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, Dtype, eval};

use super::batch::{Batch, Departure};
use super::draft::{Draft, Speculation};
use super::request::Event;
use super::sequence::Sequence;
use crate::cache::{self, Cache};
use crate::sample::{ChosenLogprobs, Sampler};
use crate::{Input, LanguageModel, Result};

/// One step of all sequences: drafts, one pass of the model over them, and as
/// many tokens for each as hold, at least one.
pub(super) fn step(
    batch: &mut Batch<'_>,
    model: &dyn LanguageModel,
    speculation: &Speculation<'_>,
    events: &mut Vec<Event>,
) -> Result<()> {
    // First tokens of those that have just joined, or what a step without
    // drafts has left.
    if let Some(pending) = batch.pending.take() {
        let tokens = pending.tokens.to_vec::<u32>()?;
        let fresh = tokens.len() == batch.rows.len();
        let gone = if fresh {
            batch.read(&tokens, &pending.logprobs, events)
        } else {
            let first = batch.rows.len() - tokens.len();
            batch.read_from(first, &tokens, &pending.logprobs, events)
        };
        batch.leave(gone, None, events)?;
    }
    if batch.is_empty() {
        return Ok(());
    }
    let mut drafts = Vec::with_capacity(batch.rows.len());
    for sequence in &mut batch.rows {
        drafts.push(propose(sequence, speculation)?);
    }
    let longest = drafts.iter().map(Vec::len).max().unwrap_or(0);
    let width = i32::try_from(longest).unwrap_or(i32::MAX) + 1;

    // States cannot be taken back, so they are kept from before.
    let before = (batch.has_states && longest > 0).then(|| batch.cache.clone());
    let mut input = Vec::with_capacity(batch.rows.len() * (longest + 1));
    for (sequence, drafts) in batch.rows.iter().zip(&drafts) {
        let last = sequence.tokens.last().copied().unwrap_or(0);
        input.push(last);
        input.extend(drafts.iter().map(|draft| draft.token));
        input.extend(std::iter::repeat_n(last, longest - drafts.len()));
    }
    let rows = i32::try_from(batch.rows.len()).unwrap_or(i32::MAX);
    let tokens = Array::from_slice::<u32>(&input, &[rows, width])?;
    let hidden = model.hidden(Input::tokens(&tokens), &mut batch.cache)?;
    let logits = model.logits(&hidden)?; // [B, L, V]

    let mut checks = Vec::with_capacity(batch.rows.len());
    for (index, (sequence, drafts)) in (0..).zip(batch.rows.iter_mut().zip(&drafts)) {
        let own = slice(&logits, &[index, 0, 0], &[index + 1, width, logits.dim(2)?])?;
        checks.push(Check::new(sequence, drafts, &own)?);
    }
    let results: Vec<&Array> = checks.iter().flat_map(Check::arrays).collect();
    eval(&results)?;

    let mut gone = Vec::new();
    let mut emitted = Vec::with_capacity(checks.len());
    for (index, check) in checks.into_iter().enumerate() {
        let (Some(sequence), Some(drafts)) = (batch.rows.get_mut(index), drafts.get(index)) else {
            continue;
        };
        let count = match check.settle(sequence, drafts, events) {
            Ok((count, ends)) => {
                if ends {
                    gone.push(Departure {
                        row: index,
                        error: None,
                    });
                }
                count
            }
            Err(error) => {
                gone.push(Departure {
                    row: index,
                    error: Some(error),
                });
                1
            }
        };
        if sequence.draft.wants_hidden() && sequence.can_speculate() {
            let at = i32::try_from(index).unwrap_or(i32::MAX);
            let stops = [at + 1, count, hidden.dim(2)?];
            sequence.draft.see(&slice(&hidden, &[at, 0, 0], &stops)?);
        }
        emitted.push(count);
    }
    take_back(batch, model, before, &tokens, &emitted, width)?;
    batch.leave(gone, None, events)
}

/// Drafts for one sequence, as far as its limit and its grammar allow.
fn propose(sequence: &mut Sequence<'_>, speculation: &Speculation<'_>) -> Result<Vec<Draft>> {
    if !sequence.can_speculate() {
        return Ok(Vec::new());
    }
    // The pass itself gives one token more.
    let room = sequence.limit.saturating_sub(sequence.produced() + 1);
    let count = speculation.count().min(room);
    let mut drafts = sequence.draft.propose(&sequence.tokens, count)?;
    if let Some(grammar) = &sequence.grammar {
        let mut grammar = grammar.clone();
        let mut allowed = 0;
        for draft in &drafts {
            if !grammar.allows(draft.token)? {
                break;
            }
            grammar.consume(draft.token)?;
            allowed += 1;
        }
        drafts.truncate(allowed);
    }
    Ok(drafts)
}

/// Leaves in the cache what each sequence has kept of the pass: its last token
/// and all emitted ones but the newest.
fn take_back(
    batch: &mut Batch<'_>,
    model: &dyn LanguageModel,
    before: Option<Cache>,
    tokens: &Array,
    emitted: &[i32],
    width: i32,
) -> Result<()> {
    let surplus: Vec<i32> = emitted.iter().map(|&count| width - count).collect();
    if surplus.iter().all(|&count| count == 0) {
        return Ok(());
    }
    let Some(before) = before else {
        return cache::trim_rows(&mut batch.cache, &surplus);
    };
    let mut caches = Vec::with_capacity(emitted.len());
    for (index, &count) in (0..).zip(emitted) {
        let mut own = match emitted.len() {
            1 => before.clone(),
            _ => cache::row(&before, index)?,
        };
        let kept = slice(tokens, &[index, 0], &[index + 1, count])?;
        drop(model.hidden(Input::tokens(&kept), &mut own)?);
        let state: Vec<&Array> = own.iter().flat_map(|layer| layer.state()).collect();
        eval(&state)?;
        caches.push(own);
    }
    batch.cache = match caches.len() {
        1 => caches.pop().unwrap_or_default(),
        _ => cache::merge(&caches.iter().collect::<Vec<_>>())?,
    };
    Ok(())
}

/// The model's verdict on one sequence's drafts, still on the device.
struct Check {
    positions: Vec<Position>,
    /// The sampler as it is before each position's token.
    samplers: Vec<Sampler>,
}

/// What the model says at one position.
struct Position {
    /// Whether the draft holds, `[1]`; `None` behind the last draft.
    accepted: Option<Array>,
    /// The token to take if it does not, `[1]`.
    token: Array,
    /// What it was drawn from.
    distribution: Option<Array>,
    /// Reported if the draft holds, and if it does not.
    logprobs: [Option<ChosenLogprobs>; 2],
}

impl Check {
    /// `logits` are `[1, L, V]`, of which the first `drafts + 1` matter.
    fn new(sequence: &mut Sequence<'_>, drafts: &[Draft], logits: &Array) -> Result<Self> {
        let vocab = logits.dim(2)?;
        let mut sampler = sequence.sampler.clone();
        let mut grammar = sequence.grammar.clone();
        let mut check = Self {
            positions: Vec::with_capacity(drafts.len() + 1),
            samplers: Vec::with_capacity(drafts.len() + 1),
        };
        let ends = std::iter::once(None);
        for (at, draft) in (0..).zip(drafts.iter().map(Some).chain(ends)) {
            let own = slice(logits, &[0, at, 0], &[1, at + 1, vocab])?.reshape(&[1, vocab])?;
            let own = match &mut grammar {
                Some(grammar) if sequence.can_speculate() => grammar.constrain(&own)?,
                // Without drafts, the sequence is where its grammar is.
                _ => sequence.constrained(&own)?,
            };
            let processed = sampler.processed(&own)?;
            // Random numbers of this position, whatever becomes of the others.
            let mut drawing = sampler.clone();
            let position = Position::new(&mut drawing, &processed, draft)?;
            check.samplers.push(drawing.clone());
            if let Some(draft) = draft {
                let token = Array::from_slice::<u32>(&[draft.token], &[1])?;
                drawing.advance(&token, position.distribution.as_ref())?;
                drawing.observe(draft.token);
                if let Some(grammar) = &mut grammar {
                    grammar.consume(draft.token)?;
                }
            }
            sampler = drawing;
            check.positions.push(position);
        }
        Ok(check)
    }

    fn arrays(&self) -> Vec<&Array> {
        let mut arrays = Vec::new();
        for position in &self.positions {
            arrays.extend(&position.accepted);
            arrays.push(&position.token);
            for logprobs in position.logprobs.iter().flatten() {
                arrays.push(&logprobs.chosen);
                if let Some((ids, values)) = &logprobs.top {
                    arrays.extend([ids, values]);
                }
            }
        }
        arrays
    }

    /// Hands the sequence its tokens: how many, and whether it ends.
    fn settle(
        self,
        sequence: &mut Sequence<'_>,
        drafts: &[Draft],
        events: &mut Vec<Event>,
    ) -> Result<(i32, bool)> {
        let mut count = 0;
        let mut drafts = drafts.iter();
        for (position, mut sampler) in self.positions.into_iter().zip(self.samplers) {
            let draft = drafts.next();
            let holds = match &position.accepted {
                Some(accepted) => accepted.item::<bool>()?,
                None => false,
            };
            let [if_holds, if_not] = &position.logprobs;
            let (token, logprobs) = match draft {
                Some(draft) if holds => (draft.token, if_holds),
                _ => (position.token.item::<u32>()?, if_not),
            };
            let array = Array::from_slice::<u32>(&[token], &[1])?;
            sampler.advance(&array, position.distribution.as_ref())?;
            sampler.forget_drafts(&sequence.sampler);
            sequence.sampler = sampler;
            count += 1;
            let segment = sequence.take(token, logprobs.as_ref(), holds)?;
            let ends = segment.finish_reason.is_some();
            events.push(Event::Segment {
                id: sequence.id,
                segment,
            });
            if ends || !holds {
                return Ok((count, ends));
            }
        }
        Ok((count, false))
    }
}

impl Position {
    fn new(sampler: &mut Sampler, processed: &Array, draft: Option<&Draft>) -> Result<Self> {
        if sampler.is_greedy() {
            let token = astype(&argmax_axis(processed, -1, false)?, Dtype::Uint32)?;
            let logprobs = sampler.report(processed, &token)?;
            let accepted = match draft {
                Some(draft) => Some(equal(&token, &Array::scalar(draft.token)?)?),
                None => None,
            };
            return Ok(Self {
                accepted,
                token,
                distribution: None,
                logprobs: [logprobs.clone(), logprobs],
            });
        }
        let distribution = sampler.distribution(processed)?;
        let (accepted, rest) = match draft {
            Some(draft) => {
                let key = sampler.next_key()?;
                let (accepted, rest) = judge(&distribution, draft, key.as_ref())?;
                (Some(accepted), rest)
            }
            None => (None, distribution.clone()),
        };
        let key = sampler.next_key()?;
        let token = astype(
            &random::categorical(&rest, -1, key.as_ref())?,
            Dtype::Uint32,
        )?;
        let held = match draft {
            Some(draft) => {
                let token = Array::from_slice::<u32>(&[draft.token], &[1])?;
                sampler.report(processed, &token)?
            }
            None => None,
        };
        let logprobs = [held, sampler.report(processed, &token)?];
        Ok(Self {
            accepted,
            token,
            distribution: Some(distribution),
            logprobs,
        })
    }
}

/// Accepts a draft with probability `min(1, p / q)`; what a token is drawn from
/// otherwise is `max(0, p - q)`, so that both together are exactly `p`.
///
/// A draft that was certain has `q` = 1 at its token.
pub(super) fn judge(
    distribution: &Array,
    draft: &Draft,
    key: Option<&Array>,
) -> Result<(Array, Array)> {
    let index = Array::from_slice::<u32>(&[draft.token], &[1, 1])?;
    let p = take_along_axis(distribution, &index, -1)?;
    let coin = log(&random::uniform::<f32>(0.0, 1.0, &[1, 1], key)?)?;
    let never = Array::scalar(f32::NEG_INFINITY)?;
    let (ratio, rest) = match &draft.distribution {
        Some(q) => {
            let at_token = take_along_axis(q, &index, -1)?;
            let surplus = subtract(&exp(distribution)?, &exp(q)?)?;
            let rest = log(&maximum(&surplus, &Array::scalar(0.0_f32)?)?)?;
            (subtract(&p, &at_token)?, rest)
        }
        None => {
            let vocab = distribution.dim(1)?;
            let ids = Array::arange::<u32>(0.0, f64::from(vocab), 1.0)?;
            let own = reshape(&equal(&ids, &Array::scalar(draft.token)?)?, &[1, vocab])?;
            (p, r#where(&own, &never, distribution)?)
        }
    };
    Ok((reshape(&less(&coin, &ratio)?, &[1])?, rest))
}

#[cfg(test)]
mod tests {
    use mlx_core::Array;
    use mlx_core::ops::random;

    use super::{Draft, judge};

    /// How often each of three tokens comes out, with drafts drawn from `q`.
    fn frequencies(p: [f32; 3], q: Option<[f32; 3]>) -> crate::Result<[f64; 3]> {
        const DRAWS: u64 = 6000;
        let array = |p: [f32; 3]| Array::from_slice::<f32>(&p.map(f32::ln), &[1, 3]);
        let target = array(p)?;
        let mut counts = [0.0; 3];
        for seed in 0..DRAWS {
            let key = |stream: u64| random::key(seed * 8 + stream);
            let draft = match q {
                Some(q) => {
                    let q = array(q)?;
                    let token = random::categorical(&q, -1, Some(&key(0)?))?;
                    Draft {
                        token: token.item::<u32>()?,
                        distribution: Some(q),
                    }
                }
                None => Draft {
                    token: 1,
                    distribution: None,
                },
            };
            let (accepted, rest) = judge(&target, &draft, Some(&key(1)?))?;
            let token = if accepted.item::<bool>()? {
                draft.token
            } else {
                random::categorical(&rest, -1, Some(&key(2)?))?.item::<u32>()?
            };
            counts[usize::try_from(token).unwrap_or(0)] += 1.0 / 6000.0;
        }
        Ok(counts)
    }

    #[test]
    fn rejection_sampling_keeps_the_distribution() -> crate::Result<()> {
        let p = [0.5, 0.2, 0.3];
        for q in [None, Some([0.1, 0.8, 0.1]), Some(p), Some([0.6, 0.1, 0.3])] {
            let found = frequencies(p, q)?;
            for (found, expected) in found.into_iter().zip(p) {
                let expected = f64::from(expected);
                // Four and a half standard deviations of 6000 draws.
                let spread = 4.5 * (expected * (1.0 - expected) / 6000.0).sqrt();
                assert!(
                    (found - expected).abs() < spread,
                    "{q:?}: {found} for {expected}"
                );
            }
        }
        Ok(())
    }
}
