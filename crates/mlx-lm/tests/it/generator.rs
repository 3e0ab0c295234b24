//! Many sequences at once, against the same ones alone.

use std::collections::BTreeMap;

use mlx_core::Array;
use mlx_lm::cache::{Cache, CacheOptions, KvQuantization};
use mlx_lm::generate::{
    Event, Generator, GeneratorOptions, LogitsProcessor, Request, SequenceId, Speculation,
};
use mlx_lm::prefix::PrefixStore;
use mlx_lm::sample::{Dry, Mirostat, SamplingOptions};
use mlx_lm::{Error, FinishReason, LoadedModel};
use serde_json::json;

use crate::support::{Outcome, config, model, with};

type Answers = BTreeMap<SequenceId, Vec<u32>>;

/// Runs all steps, and calls `between` before each.
fn drain<'m>(
    generator: &mut Generator<'m>,
    mut between: impl FnMut(usize, &mut Generator<'m>) -> Result<(), Error>,
) -> Result<(Answers, Vec<Event>), Error> {
    let mut answers = Answers::new();
    let mut others = Vec::new();
    let mut step = 0;
    while !generator.is_idle() {
        between(step, generator)?;
        step += 1;
        for event in generator.step()? {
            match event {
                Event::Segment { id, segment } => {
                    answers.entry(id).or_default().push(segment.token);
                }
                other => others.push(other),
            }
        }
    }
    Ok((answers, others))
}

fn alone(
    model: &LoadedModel,
    request: Request,
    options: &GeneratorOptions,
) -> Result<Vec<u32>, Error> {
    let mut generator = Generator::new(model.model())
        .tokenizer(model.tokenizer())
        .options(options.clone());
    let id = generator.insert(request)?;
    let (mut answers, _) = drain(&mut generator, |_, _| Ok(()))?;
    Ok(answers.remove(&id).unwrap_or_default())
}

fn prompt(seed: u32, length: u32) -> Vec<u32> {
    (0..length)
        .map(|at| (at * 977 + seed * 131 + 7) % 4000 + 1)
        .collect()
}

/// Requests of all lengths and ways of choosing.
fn requests() -> Vec<Request> {
    let warm = SamplingOptions::default().temperature(1.0);
    let samplings = [
        SamplingOptions::default(),
        warm.clone().seed(Some(1)).top_p(0.9),
        SamplingOptions::default().repetition_penalty(1.3),
        warm.clone().seed(Some(2)).dry(Some(Dry::new(0.8))),
        warm.clone()
            .seed(Some(3))
            .mirostat(Some(Mirostat::v2(4.0, 0.2))),
        warm.clone()
            .seed(Some(4))
            .top_k(20)
            .min_p(0.01)
            .presence_penalty(0.5),
        warm.seed(Some(5)).xtc_probability(0.5).typical_p(0.95),
        SamplingOptions::default().logprobs(Some(2)),
    ];
    let lengths = [
        (3, 9),
        (20, 4),
        (1, 13),
        (33, 7),
        (9, 1),
        (5, 20),
        (12, 6),
        (2, 11),
    ];
    (0..)
        .zip(samplings)
        .zip(lengths)
        .map(|((seed, sampling), (length, max_tokens))| {
            let mut request = Request::new(prompt(seed, length))
                .sampling(sampling)
                .max_tokens(max_tokens);
            request.prefill_step_size = 8;
            request
        })
        .collect()
}

fn sliding() -> serde_json::Value {
    with(config("mistral"), json!({ "sliding_window": 6 }))
}

#[test]
fn a_batch_gives_every_sequence_what_it_gets_alone() -> Outcome {
    let packed = CacheOptions::default().quantization(Some(KvQuantization::new(8).group_size(32)));
    let wide = with(config("llama"), json!({ "head_dim": 32 }));
    for (config, cache) in [
        (config("llama"), CacheOptions::default()),
        (sliding(), CacheOptions::default()),
        (
            config("qwen3"),
            CacheOptions::default().max_kv_size(Some(10)),
        ),
        (wide, packed),
    ] {
        let model = model(&config)?;
        let options = GeneratorOptions::default().cache(cache).max_batch(5);
        let mut expected = Vec::new();
        for request in requests() {
            expected.push(alone(&model, request, &options)?);
        }
        assert!(expected.iter().map(Vec::len).sum::<usize>() > 60);
        // Some are there from the start, the others join in between.
        let mut late = requests();
        let early = late.drain(..3).collect::<Vec<_>>();
        let mut late = late.into_iter();
        let mut generator = Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .options(options);
        let mut ids = Vec::new();
        for request in early {
            ids.push(generator.insert(request)?);
        }
        let (answers, others) = drain(&mut generator, |step, generator| {
            if step % 2 == 1
                && let Some(request) = late.next()
            {
                ids.push(generator.insert(request)?);
            }
            Ok(())
        })?;
        assert_eq!(ids.len(), expected.len());
        for (id, expected) in ids.iter().zip(&expected) {
            assert_eq!(&answers[id], expected, "{id:?}");
        }
        let finished = others
            .iter()
            .filter(|event| matches!(event, Event::Finished { .. }));
        assert_eq!(finished.count(), ids.len());
    }
    Ok(())
}

#[test]
fn sequences_are_cancelled_without_touching_others() -> Outcome {
    let model = model(&config("llama"))?;
    let options = GeneratorOptions::default();
    let request = |seed| Request::new(prompt(seed, 5)).max_tokens(12);
    let mut generator = Generator::new(model.model()).tokenizer(model.tokenizer());
    let mut ids = Vec::new();
    for seed in 0..4 {
        ids.push(generator.insert(request(seed))?);
    }
    let (answers, others) = drain(&mut generator, |step, generator| {
        match step {
            6 => generator.cancel(ids[1]),
            8 => generator.cancel(ids[3]),
            _ => {}
        }
        Ok(())
    })?;
    for (index, seed) in [(0, 0), (2, 2)] {
        assert_eq!(
            answers[&ids[index]],
            alone(&model, request(seed), &options)?
        );
    }
    assert!(answers[&ids[1]].len() < 12 && answers[&ids[3]].len() < 12);
    let cancelled: Vec<SequenceId> = others
        .iter()
        .filter_map(|event| match event {
            Event::Failed {
                id,
                error: Error::Cancelled,
            } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(cancelled, [ids[1], ids[3]]);
    Ok(())
}

/// Allows even tokens only, and fails after a while if it is told to.
struct Even {
    fails_at: usize,
}

impl LogitsProcessor for Even {
    fn process(&mut self, tokens: &[u32], logits: &Array) -> mlx_lm::Result<Array> {
        if tokens.len() >= self.fails_at {
            return Err(Error::EmptyPrompt);
        }
        let vocab = logits.dim(1)?;
        let even: Vec<f32> = (0..vocab)
            .map(|id| if id % 2 == 0 { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        Ok((logits + Array::from_slice::<f32>(&even, &[1, vocab])?)?)
    }
}

#[test]
fn a_processor_sees_every_token() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generator = Generator::new(model.model());
    let mut constrained = Request::new(prompt(1, 4)).max_tokens(8);
    constrained.processors.push(Box::new(Even { fails_at: 99 }));
    let even = generator.insert(constrained)?;
    let free = generator.insert(Request::new(prompt(2, 6)).max_tokens(8))?;
    let (answers, _) = drain(&mut generator, |_, _| Ok(()))?;
    assert!(answers[&even].iter().all(|token| token % 2 == 0));
    let request = Request::new(prompt(2, 6)).max_tokens(8);
    assert_eq!(
        answers[&free],
        alone(&model, request, &GeneratorOptions::default())?
    );
    Ok(())
}

#[test]
fn prompts_that_fit_a_chunk_are_processed_in_one_pass() -> Outcome {
    let packed = CacheOptions::default().quantization(Some(KvQuantization::new(8).group_size(32)));
    let wide = with(config("llama"), json!({ "head_dim": 32 }));
    for (config, cache) in [
        (config("llama"), CacheOptions::default()),
        (sliding(), CacheOptions::default()),
        (
            config("qwen3"),
            CacheOptions::default().max_kv_size(Some(9)),
        ),
        (wide, packed),
    ] {
        let model = model(&config)?;
        let options = GeneratorOptions::default().cache(cache);
        let mut expected = Vec::new();
        for request in greedy() {
            expected.push(alone(&model, request, &options)?);
        }
        // The prompts have 3, 10, 17 and 24 tokens.
        for (chunk, max_batch, decoding) in
            [(96, 8, 4), (95, 8, 3), (96, 2, 2), (23, 8, 2), (19, 8, 1)]
        {
            let mut generator = Generator::new(model.model())
                .tokenizer(model.tokenizer())
                .options(options.clone().max_batch(max_batch));
            let mut ids = Vec::new();
            for mut request in greedy() {
                request.prefill_step_size = chunk;
                ids.push(generator.insert(request)?);
            }
            let mut first = Vec::new();
            let mut answers = Answers::new();
            while !generator.is_idle() {
                let events = generator.step()?;
                first.push(generator.waiting());
                for event in events {
                    if let Event::Segment { id, segment } = event {
                        answers.entry(id).or_default().push(segment.token);
                    }
                }
            }
            assert_eq!(first[0], 4 - decoding, "chunks of {chunk}");
            for (id, expected) in ids.iter().zip(&expected) {
                assert_eq!(
                    &answers[id], expected,
                    "chunks of {chunk}, {max_batch} at once"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn one_that_fails_leaves_those_that_were_processed_with_it() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generator = Generator::new(model.model());
    let mut failing = Request::new(prompt(1, 4)).max_tokens(8);
    failing.processors.push(Box::new(Even { fails_at: 0 }));
    let first = generator.insert(Request::new(prompt(2, 6)).max_tokens(8))?;
    let failing = generator.insert(failing)?;
    let last = generator.insert(Request::new(prompt(3, 3)).max_tokens(8))?;
    let (answers, others) = drain(&mut generator, |_, _| Ok(()))?;
    let failed = others
        .iter()
        .filter(|event| matches!(event, Event::Failed { .. }));
    assert_eq!(failed.map(Event::id).collect::<Vec<_>>(), [failing]);
    for (id, seed, length) in [(first, 2, 6), (last, 3, 3)] {
        let request = Request::new(prompt(seed, length)).max_tokens(8);
        assert_eq!(
            answers[&id],
            alone(&model, request, &GeneratorOptions::default())?
        );
    }
    Ok(())
}

#[test]
fn logprobs_are_of_the_chosen_and_of_the_best() -> Outcome {
    let model = model(&config("llama"))?;
    let sampling = SamplingOptions::default().logprobs(Some(3));
    let request = Request::new(prompt(1, 4)).sampling(sampling).max_tokens(3);
    let mut generator = Generator::new(model.model());
    generator.insert(request)?;
    let mut seen = 0;
    while !generator.is_idle() {
        for event in generator.step()? {
            let Event::Segment { segment, .. } = event else {
                continue;
            };
            seen += 1;
            let logprob = segment.logprob.ok_or("no logprob")?;
            assert!(logprob < 0.0);
            assert_eq!(segment.top_logprobs.len(), 3);
            assert_eq!(segment.top_logprobs[0], (segment.token, logprob));
            assert!(
                segment
                    .top_logprobs
                    .windows(2)
                    .all(|pair| pair[0].1 >= pair[1].1)
            );
        }
    }
    assert_eq!(seen, 3);
    Ok(())
}

/// Answers of several requests on one generator.
fn together(generator: &mut Generator<'_>, requests: Vec<Request>) -> Result<Vec<Vec<u32>>, Error> {
    let mut ids = Vec::new();
    for request in requests {
        ids.push(generator.insert(request)?);
    }
    let (mut answers, _) = drain(generator, |_, _| Ok(()))?;
    Ok(ids
        .iter()
        .map(|id| answers.remove(id).unwrap_or_default())
        .collect())
}

fn greedy() -> Vec<Request> {
    (0..4)
        .map(|seed| Request::new(prompt(seed, 3 + seed * 7)).max_tokens(17 + seed as usize))
        .collect()
}

#[test]
fn speculation_changes_no_greedy_answer() -> Outcome {
    for config in [config("llama"), sliding()] {
        let model = model(&config)?;
        let mut expected = Vec::new();
        for request in greedy() {
            expected.push(alone(&model, request, &GeneratorOptions::default())?);
        }
        for speculation in [
            Speculation::model(model.model(), 4),
            Speculation::prompt_lookup(3, 1, 5),
        ] {
            let generator = || Generator::new(model.model()).tokenizer(model.tokenizer());
            let mut batch = generator().speculation(speculation.clone());
            assert_eq!(together(&mut batch, greedy())?, expected, "{speculation:?}");
            for (request, expected) in greedy().into_iter().zip(&expected) {
                let mut single = generator().speculation(speculation.clone());
                assert_eq!(&together(&mut single, vec![request])?[0], expected);
            }
        }
    }
    Ok(())
}

#[test]
fn a_draft_by_the_model_itself_is_accepted_whole() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generator =
        Generator::new(model.model()).speculation(Speculation::model(model.model(), 3));
    generator.insert(Request::new(prompt(3, 9)).max_tokens(13))?;
    let mut drafted = 0;
    let mut steps = 0;
    while !generator.is_idle() {
        steps += 1;
        for event in generator.step()? {
            if let Event::Segment { segment, .. } = event {
                drafted += usize::from(segment.from_draft);
            }
        }
    }
    // The first token, then three drafts and one more with each pass.
    assert_eq!((drafted, steps), (9, 3));
    Ok(())
}

#[test]
fn drawn_answers_with_speculation_repeat_by_seed() -> Outcome {
    let model = model(&config("llama"))?;
    let sampling = SamplingOptions::default()
        .temperature(0.8)
        .seed(Some(9))
        .repetition_penalty(1.1);
    let run = || -> Result<Vec<u32>, Error> {
        let mut generator =
            Generator::new(model.model()).speculation(Speculation::model(model.model(), 3));
        let request = Request::new(prompt(3, 9))
            .max_tokens(20)
            .sampling(sampling.clone());
        Ok(together(&mut generator, vec![request])?.remove(0))
    };
    let first = run()?;
    assert_eq!(first.len(), 20);
    assert_eq!(run()?, first);
    Ok(())
}

#[test]
fn a_cache_handed_out_holds_what_it_says() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generator = Generator::new(model.model());
    let first = prompt(1, 9);
    for seed in 1..3 {
        let mut request = Request::new(prompt(seed, 9)).max_tokens(5 + seed as usize);
        request.keep_cache = true;
        generator.insert(request)?;
    }
    let (answers, others) = drain(&mut generator, |_, _| Ok(()))?;
    let kept: Vec<(&Vec<u32>, &Cache)> = others
        .iter()
        .filter_map(|event| match event {
            Event::Finished {
                cache: Some((tokens, cache)),
                stats,
                ..
            } => {
                assert_eq!(stats.finish_reason, Some(FinishReason::Length));
                Some((tokens, cache))
            }
            _ => None,
        })
        .collect();
    assert_eq!(kept.len(), 2);
    let (tokens, cache) = kept[0];
    let answer = answers.values().next().ok_or("no answer")?;
    let all = [first.as_slice(), answer].concat();
    assert_eq!(tokens.as_slice(), &all[..tokens.len()]);
    assert_eq!(usize::try_from(cache[0].offset())?, tokens.len());
    // Going on from it equals going on from the whole text.
    let longer = [all.as_slice(), &prompt(5, 4)].concat();
    let mut resumed = Request::new(longer.clone()).max_tokens(6);
    resumed.cache = Some(cache.clone());
    let options = GeneratorOptions::default();
    let fresh = alone(&model, Request::new(longer).max_tokens(6), &options)?;
    assert_eq!(alone(&model, resumed, &options)?, fresh);
    Ok(())
}

#[test]
fn prompts_begin_with_what_the_store_knows() -> Outcome {
    for config in [config("llama"), sliding()] {
        let model = model(&config)?;
        let mut generator = Generator::new(model.model()).prefix_store(PrefixStore::new(64 << 20));
        let system = prompt(1, 30);
        let ask = |seed: u32| {
            let text = [system.as_slice(), &prompt(seed, 6)].concat();
            let mut request = Request::new(text).max_tokens(5);
            request.snapshots = vec![system.len()];
            request
        };
        for seed in 2..6 {
            let expected = alone(&model, ask(seed), &GeneratorOptions::default())?;
            let mut done = Vec::new();
            let id = generator.insert(ask(seed))?;
            let (answers, events) = drain(&mut generator, |_, _| Ok(()))?;
            for event in events {
                if let Event::Prefill { done: count, .. } = event {
                    done.push(count);
                }
            }
            assert_eq!(answers[&id], expected);
            assert_eq!(done[0], if seed == 2 { 0 } else { 30 }, "{done:?}");
        }
        let store = generator.prefixes().ok_or("no store")?;
        assert_eq!(store.statistics(), (3, 1));
    }
    Ok(())
}

#[test]
fn the_store_keeps_to_its_limit() -> Outcome {
    let loaded = model(&config("llama"))?;
    let model = loaded.model();
    let filled = |tokens: &[u32]| -> Result<Cache, Error> {
        let mut cache = model.make_cache(&CacheOptions::default());
        let row = crate::support::row(tokens)?;
        drop(model.forward(&row, &mut cache)?);
        Ok(cache)
    };
    let size = mlx_lm::cache::nbytes(&filled(&prompt(0, 9))?);
    let mut store = PrefixStore::new(size * 3 + 14_000);
    for seed in 0..6 {
        let tokens = prompt(seed, 9);
        store.insert(&tokens, filled(&tokens)?)?;
        assert!(store.nbytes() <= size * 3 + 14_000);
        // The first is asked for again and again, and stays.
        assert!(store.fetch(&prompt(0, 9)).is_some());
    }
    assert_eq!(store.len(), 3);
    assert!(store.fetch(&prompt(1, 9)).is_none());
    // A longer one is cut back to what is shared.
    let mut fork = prompt(5, 9);
    fork[6] = 1;
    let (length, cache) = store.fetch(&fork).ok_or("not found")?;
    assert_eq!((length, cache[0].offset()), (6, 6));
    store.clear();
    assert_eq!((store.nbytes(), store.len()), (0, 0));
    let mut small = PrefixStore::new(100);
    small.insert(&prompt(0, 9), filled(&prompt(0, 9))?)?;
    assert!(small.is_empty());
    Ok(())
}

#[test]
fn embeddings_take_the_place_of_tokens() -> Outcome {
    let loaded = model(&config("llama"))?;
    let model = loaded.model();
    let text = prompt(4, 11);
    let mut request = Request::new(vec![0_u32; 11]).max_tokens(6);
    request.embeddings = Some(model.embed(&crate::support::row(&text)?)?);
    request.prefill_step_size = 4;
    let options = GeneratorOptions::default();
    let expected = alone(&loaded, Request::new(text).max_tokens(6), &options)?;
    assert_eq!(alone(&loaded, request, &options)?, expected);
    Ok(())
}

#[test]
fn a_conversation_begins_with_what_it_remembers() -> Outcome {
    let folder = crate::support::checkpoint(&with(
        config("llama"),
        json!({ "max_position_embeddings": 4096 }),
    ))?;
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template)?;
    let model = mlx_lm::load(folder.path())?;
    let options = mlx_lm::GenerateOptions::default().max_tokens(6);
    let mut chat = mlx_lm::generate::ChatSession::new(&model, &options);
    let mut seen = String::new();
    let (first, stats) = chat.send("Tell me of the sea.", |segment| {
        seen.push_str(&segment.text)
    })?;
    assert_eq!(
        (seen.as_str(), stats.generation_tokens),
        (first.as_str(), 6)
    );
    let (second, _) = chat.send("And of the land?", |_| {})?;
    assert_eq!(chat.reuse(), (1, 1));
    assert_eq!(chat.messages().len(), 4);
    // The same answer as without any memory of the first turn.
    let fresh = model.chat(&chat.messages()[..3], &options)?.text()?;
    assert_eq!(second, fresh);
    Ok(())
}
