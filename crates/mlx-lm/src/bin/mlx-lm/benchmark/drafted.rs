//! A run with speculative decoding.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mlx_lm::cache::CacheOptions;
use mlx_lm::cli::Failure;
use mlx_lm::generate::{Event, Generator, GeneratorOptions, Request, Speculation};
use mlx_lm::{CancelFlag, LanguageModel};

use super::{Case, Chance, Run, interrupted};

/// Times until every sequence has its first token, and for the tokens after that.
pub(super) fn once<'m>(
    case: &Case,
    model: &'m dyn LanguageModel,
    options: &CacheOptions,
    speculation: &Speculation<'m>,
    cancel: &CancelFlag,
) -> Result<Run, Failure> {
    let options = GeneratorOptions::default().cache(options.clone());
    // Without a tokenizer, no token ends an answer.
    let mut generator = Generator::new(model)
        .options(options.max_batch(case.batch))
        .speculation(speculation.clone());
    let mut chance = Chance(1);
    let started = Instant::now();
    for _ in 0..case.batch {
        let prompt = chance.tokens(case.prompt, model.vocab_size());
        let mut request = Request::new(prompt).max_tokens(case.generate + 1);
        request.prefill_step_size = case.step;
        generator.insert(request)?;
    }
    let mut prompt = Duration::ZERO;
    let (mut begun, mut drafted) = (BTreeSet::new(), 0);
    // When each step was over, and how many tokens it brought that were not the first.
    let mut steps = Vec::new();
    while !generator.is_idle() {
        interrupted(cancel)?;
        let events = generator.step()?;
        let now = started.elapsed();
        let mut tokens = 0;
        for event in events {
            match event {
                Event::Segment { id, segment } => {
                    drafted += usize::from(segment.from_draft);
                    tokens += usize::from(!begun.insert(id));
                }
                // Sequences decode while the prompts of later ones are read.
                Event::Finished { stats, .. } => {
                    prompt = prompt.max(now.saturating_sub(stats.generation_time));
                }
                Event::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
        steps.push((now, tokens));
    }
    let after = steps.iter().filter(|(end, _)| *end > prompt);
    Ok(Run {
        prompt,
        generation: started.elapsed().saturating_sub(prompt),
        generated: after.map(|(_, tokens)| tokens).sum(),
        drafted,
    })
}
