//! Sequences that join, leave and are cancelled at random, for as long as told:
//! every answer must be the one that the sequence gets alone, and neither the
//! arrays in use nor the memory of the process may grow.
//!
//! `cargo xtask soak` runs it on small models of several kinds, or
//! `cargo run --release -p mlx-lm --example soak -- SECONDS MODEL...`

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::HashMap;
use std::env;
use std::time::{Duration, Instant};

use mlx_core::{Dtype, memory};
use mlx_lm::generate::{Event, Generator, Request, SequenceId};
use mlx_lm::{Error, LoadedModel, Loader, SamplingOptions};

const SEQUENCES: usize = 16;
const KINDS: u64 = 24;
/// Steps in which sequences join, before those that are there run to their ends.
const CYCLE: u64 = 400;
/// What caches, threads and the allocator settle down to after a while.
const WARM_UP: f64 = 0.1;
/// How much the process may grow after that.
const SLACK: usize = 16 << 20;
/// How much the arrays in use may grow.
const ARRAY_SLACK: usize = 1 << 20;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The request of a number: prompt, length and sampling follow from it.
fn request(kind: u64, vocab: u64) -> Request {
    let prompt: Vec<u32> = (0..1 + kind * 7 % 60)
        .map(|at| u32::try_from((at * 97 + kind * 31) % (vocab - 1) + 1).unwrap_or(1))
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

/// Random numbers that are the same in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

#[derive(Default)]
struct Counts {
    finished: u64,
    cancelled: u64,
    steps: u64,
    most_at_once: usize,
}

/// One model, its generator, and what each request is answered when it is alone.
struct Stand<'m> {
    generator: Generator<'m>,
    vocab: u64,
    expected: HashMap<u64, Vec<u32>>,
    running: HashMap<SequenceId, (u64, Vec<u32>)>,
    counts: Counts,
}

impl<'m> Stand<'m> {
    fn new(model: &'m LoadedModel) -> Outcome<Self> {
        let vocab = u64::try_from(model.model().vocab_size())?;
        let mut expected = HashMap::new();
        for kind in 0..KINDS {
            expected.insert(kind, alone(model, request(kind, vocab))?);
        }
        Ok(Self {
            generator: generator(model),
            vocab,
            expected,
            running: HashMap::new(),
            counts: Counts::default(),
        })
    }

    /// Lets sequences join for a while, then all of them end.
    fn cycle(&mut self, random: &mut Lcg) -> Outcome<()> {
        for step in 0.. {
            let open = step < CYCLE;
            if open && self.running.len() < SEQUENCES && random.below(3) == 0 {
                let kind = random.below(KINDS);
                let id = self.generator.insert(request(kind, self.vocab))?;
                self.running.insert(id, (kind, Vec::new()));
            }
            if !open && self.generator.is_idle() {
                break;
            }
            if random.below(40) == 0
                && let Some(&id) = self.running.keys().min()
            {
                self.generator.cancel(id);
            }
            self.counts.steps += 1;
            self.counts.most_at_once = self.counts.most_at_once.max(self.running.len());
            for event in self.generator.step()? {
                self.check(event)?;
            }
        }
        if self.running.is_empty() {
            return Ok(());
        }
        Err(format!("{} sequences never ended", self.running.len()).into())
    }

    fn check(&mut self, event: Event) -> Outcome<()> {
        let id = event.id();
        let complete = match event {
            Event::Segment { segment, .. } => {
                let sequence = self.running.get_mut(&id);
                sequence.ok_or("an unknown sequence")?.1.push(segment.token);
                return Ok(());
            }
            Event::Finished { .. } => true,
            Event::Failed {
                error: Error::Cancelled,
                ..
            } => false,
            Event::Failed { error, .. } => return Err(error.into()),
            _ => return Ok(()),
        };
        let (kind, tokens) = self.running.remove(&id).ok_or("an unknown sequence")?;
        let known = self.expected.get(&kind).map_or(&[][..], Vec::as_slice);
        if complete {
            self.counts.finished += 1;
        } else {
            self.counts.cancelled += 1;
        }
        if known == tokens || (!complete && known.starts_with(&tokens)) {
            return Ok(());
        }
        Err(format!("answer {kind} is {tokens:?}, alone {known:?}").into())
    }
}

fn generator(model: &LoadedModel) -> Generator<'_> {
    Generator::new(model.model()).tokenizer(model.tokenizer())
}

fn alone(model: &LoadedModel, request: Request) -> Result<Vec<u32>, Error> {
    let mut generator = generator(model);
    generator.insert(request)?;
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

/// The memory of the process in bytes, where the system says so in a file.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

/// The most that was in use between cycles.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    arrays: usize,
    process: usize,
}

impl Usage {
    fn now() -> Outcome<Self> {
        // What is kept for reuse is no leak, and differs from cycle to cycle.
        memory::clear_cache()?;
        Ok(Self {
            arrays: memory::active_memory()?,
            process: resident().unwrap_or(0),
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            arrays: self.arrays.max(other.arrays),
            process: self.process.max(other.process),
        }
    }
}

fn main() -> Outcome<()> {
    let mut arguments = env::args().skip(1);
    let seconds = arguments.next().ok_or("usage: soak SECONDS MODEL...")?;
    let length = Duration::from_secs(seconds.parse()?);
    let mut models = Vec::new();
    for folder in arguments {
        // In half precision, products of one row and of several round differently,
        // and a near tie may then fall either way.
        models.push(Loader::new(folder).dtype(Dtype::Float32).load()?);
    }
    let mut stands = Vec::new();
    for model in &models {
        stands.push(Stand::new(model)?);
    }
    if stands.is_empty() {
        return Err("usage: soak SECONDS MODEL...".into());
    }
    let mut random = Lcg(42);
    let (mut first, mut later): (Option<Usage>, Option<Usage>) = (None, None);
    let start = Instant::now();
    while start.elapsed() < length {
        for stand in &mut stands {
            stand.cycle(&mut random)?;
        }
        let (used, warm) = (Usage::now()?, length.mul_f64(WARM_UP));
        let seen = if start.elapsed() < warm {
            &mut first
        } else {
            &mut later
        };
        *seen = Some(seen.map_or(used, |seen| seen.most(used)));
    }
    for (model, stand) in models.iter().zip(&stands) {
        let counts = &stand.counts;
        println!(
            "{}: {} answers equal to single runs, {} cancelled, up to {} at once, {} steps",
            model.path().display(),
            counts.finished,
            counts.cancelled,
            counts.most_at_once,
            counts.steps
        );
    }
    let later = later.ok_or("too short to tell whether memory grows")?;
    let first = first.unwrap_or(later);
    println!(
        "{:.0} s; most bytes between cycles: arrays {} in the first tenth and {} after it, process {} and {}",
        start.elapsed().as_secs_f64(),
        first.arrays,
        later.arrays,
        first.process,
        later.process
    );
    if later.arrays > first.arrays + ARRAY_SLACK || later.process > first.process + SLACK {
        return Err("memory grew".into());
    }
    Ok(())
}
