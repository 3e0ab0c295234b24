//! Sequences that join, leave and are cancelled at random, for as long as told:
//! every answer must be the one that the sequence gets alone, and the memory
//! in use must not grow.
//!
//! `cargo run --release -p mlx-lm --example soak -- MODEL [SECONDS]`

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::HashMap;
use std::env;
use std::time::{Duration, Instant};

use mlx_core::{Dtype, memory};
use mlx_lm::generate::{Event, Generator, Request, SequenceId};
use mlx_lm::{Error, LoadedModel, Loader, SamplingOptions};

const SEQUENCES: usize = 16;
const KINDS: u64 = 24;

/// The request of a number: prompt, length and sampling follow from it.
fn request(kind: u64) -> Request {
    let prompt: Vec<u32> = (0..1 + kind * 7 % 60)
        .map(|at| u32::try_from((at * 97 + kind * 31) % 4000 + 1).unwrap_or(1))
        .collect();
    let mut sampling = SamplingOptions::default();
    if kind % 3 == 1 {
        sampling = sampling.temperature(0.9).top_p(0.95).seed(Some(kind));
    }
    if kind % 3 == 2 {
        sampling = sampling.repetition_penalty(1.2);
    }
    let tokens = usize::try_from(4 + kind * 5 % 40).unwrap_or(4);
    let mut request = Request::new(prompt).sampling(sampling).max_tokens(tokens);
    request.prefill_step_size = 16;
    request
}

fn generator(model: &LoadedModel) -> Generator<'_> {
    Generator::new(model.model()).tokenizer(model.tokenizer())
}

fn alone(model: &LoadedModel, kind: u64) -> Result<Vec<u32>, Error> {
    let mut generator = generator(model);
    generator.insert(request(kind))?;
    let mut tokens = Vec::new();
    while !generator.is_idle() {
        for event in generator.step()? {
            if let Event::Segment { segment, .. } = event {
                tokens.push(segment.token);
            }
        }
    }
    Ok(tokens)
}

struct Running {
    kind: u64,
    tokens: Vec<u32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().ok_or("usage: soak MODEL [SECONDS]")?;
    let seconds: u64 = arguments.next().map_or(Ok(10), |text| text.parse())?;
    // In half precision, products of one row and of several round differently,
    // and a near tie may then fall either way.
    let model = Loader::new(folder).dtype(Dtype::Float32).load()?;
    let mut expected = HashMap::new();
    for kind in 0..KINDS {
        expected.insert(kind, alone(&model, kind)?);
    }
    let mut generator = generator(&model);
    let mut running: HashMap<SequenceId, Running> = HashMap::new();
    let mut random = 42_u64;
    let mut next = move |limit: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % limit
    };
    let (mut finished, mut cancelled, mut steps) = (0_u64, 0_u64, 0_u64);
    let mut idle_memory: Option<usize> = None;
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        let draining = Instant::now() > until || (steps / 400) % 2 == 1;
        if !draining && running.len() < SEQUENCES && next(3) == 0 {
            let kind = next(KINDS);
            let tokens = Vec::new();
            running.insert(generator.insert(request(kind))?, Running { kind, tokens });
        }
        if next(40) == 0
            && let Some(&id) = running.keys().min()
        {
            generator.cancel(id);
        }
        steps += 1;
        for event in generator.step()? {
            match event {
                Event::Segment { id, segment } => {
                    if let Some(sequence) = running.get_mut(&id) {
                        sequence.tokens.push(segment.token);
                    }
                }
                Event::Finished { id, .. } => {
                    let sequence = running.remove(&id).ok_or("an unknown sequence finished")?;
                    let known = expected.get(&sequence.kind).map_or(&[][..], Vec::as_slice);
                    if known != sequence.tokens {
                        let (kind, found) = (sequence.kind, &sequence.tokens);
                        return Err(format!("answer {kind} is {found:?}, alone {known:?}").into());
                    }
                    finished += 1;
                }
                Event::Failed {
                    id,
                    error: Error::Cancelled,
                } => {
                    let sequence = running
                        .remove(&id)
                        .ok_or("an unknown sequence was cancelled")?;
                    let known = expected.get(&sequence.kind).map_or(&[][..], Vec::as_slice);
                    if !known.starts_with(&sequence.tokens) {
                        return Err(format!("cancelled answer {} differs", sequence.kind).into());
                    }
                    cancelled += 1;
                }
                Event::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
        if generator.is_idle() {
            let used = memory::active_memory()?;
            let first = *idle_memory.get_or_insert(used);
            if used > first + (1 << 20) {
                return Err(format!("memory in use grew from {first} to {used} bytes").into());
            }
            if Instant::now() > until {
                break;
            }
            // The idle half of a cycle need not be waited for.
            if draining {
                steps = steps.next_multiple_of(800);
            }
        }
    }
    let used = idle_memory.unwrap_or(0);
    println!(
        "{finished} answers equal to single runs, {cancelled} cancelled, {steps} steps, {used} bytes in use when idle"
    );
    Ok(())
}
