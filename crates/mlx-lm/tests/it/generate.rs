//! Generation, from cache consistency to stop strings.

use mlx_core::ops::indexing::slice;
use mlx_core::ops::shape::concatenate;
use mlx_lm::cache::CacheOptions;
use mlx_lm::{CancelFlag, Error, FinishReason, GenerateOptions, LoadedModel};
use serde_json::json;

use crate::support::{Outcome, checkpoint, config, distance, model, prose, row, with};

const PROMPT: [u32; 9] = [17, 900, 3, 2048, 77, 5, 1234, 42, 9];

fn answer(model: &LoadedModel, options: &GenerateOptions) -> Result<Vec<u32>, Error> {
    model
        .generate_tokens(&PROMPT, options)?
        .map(|segment| segment.map(|segment| segment.token))
        .collect()
}

#[test]
fn decoding_token_by_token_equals_one_pass() -> Outcome {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let loaded = model(&config(model_type))?;
        let model = loaded.model();
        let whole = model.forward(
            &row(&PROMPT)?,
            &mut model.make_cache(&CacheOptions::default()),
        )?;
        assert_eq!(whole.shape(), [1, 9, 4096]);
        let mut cache = model.make_cache(&CacheOptions::default());
        let mut steps = Vec::new();
        for token in PROMPT {
            steps.push(model.forward(&row(&[token])?, &mut cache)?);
        }
        let stepped = concatenate(&steps.iter().collect::<Vec<_>>(), 1)?;
        let error = distance(&whole, &stepped)?;
        assert!(error < 1e-4, "{model_type}: {error}");
    }
    Ok(())
}

#[test]
fn sliding_layers_see_their_window_only() -> Outcome {
    let sliding = with(config("mistral"), json!({ "sliding_window": 4 }));
    let loaded = model(&sliding)?;
    let model = loaded.model();
    let run = |tokens: &[u32]| {
        model.forward(
            &row(tokens)?,
            &mut model.make_cache(&CacheOptions::default()),
        )
    };
    let whole = run(&PROMPT)?;
    let mut cache = model.make_cache(&CacheOptions::default());
    for (index, token) in (0..).zip(PROMPT) {
        let step = model.forward(&row(&[token])?, &mut cache)?;
        let expected = slice(&whole, &[0, index, 0], &[1, index + 1, 4096])?;
        assert!(distance(&expected, &step)? < 1e-4, "position {index}");
    }
    // With two layers of window 4, the last position sees seven tokens; an
    // eighth must not matter, the seventh must.
    let last = |logits: &mlx_core::Array| slice(logits, &[0, 8, 0], &[1, 9, 4096]);
    let mut changed = PROMPT;
    changed[1] = 1;
    assert!(distance(&last(&whole)?, &last(&run(&changed)?)?)? < 1e-4);
    changed = PROMPT;
    changed[2] = 1;
    assert!(distance(&last(&whole)?, &last(&run(&changed)?)?)? > 1e-3);
    Ok(())
}

#[test]
fn chunked_prefill_gives_the_same_tokens() -> Outcome {
    let model = model(&config("qwen3"))?;
    let options = GenerateOptions::default().max_tokens(12);
    let whole = answer(&model, &options)?;
    assert_eq!(whole.len(), 12);
    for size in [1, 3, 8] {
        assert_eq!(
            answer(&model, &options.clone().prefill_step_size(size))?,
            whole,
            "chunks of {size}"
        );
    }
    Ok(())
}

#[test]
fn prefill_reports_progress_up_to_the_whole_prompt() -> Outcome {
    let model = model(&config("llama"))?;
    let mut seen = Vec::new();
    let options = GenerateOptions::default()
        .max_tokens(1)
        .prefill_step_size(4);
    model
        .generate_tokens(&PROMPT, &options)?
        .on_prefill(|done, total| seen.push((done, total)))
        .text()?;
    assert_eq!(seen, [(0, 9), (4, 9), (8, 9), (9, 9)]);
    Ok(())
}

#[test]
fn a_seed_repeats_and_another_differs() -> Outcome {
    let model = model(&config("llama"))?;
    let options = GenerateOptions::default()
        .max_tokens(16)
        .temperature(Some(1.0));
    let first = answer(&model, &options.clone().seed(Some(7)))?;
    assert_eq!(answer(&model, &options.clone().seed(Some(7)))?, first);
    assert_ne!(answer(&model, &options.seed(Some(8)))?, first);
    Ok(())
}

#[test]
fn sequences_do_not_disturb_one_another() -> Outcome {
    let model = model(&config("llama"))?;
    let options = GenerateOptions::default()
        .max_tokens(8)
        .temperature(Some(1.0))
        .seed(Some(3));
    let alone = answer(&model, &options)?;
    let mut left = model.generate_tokens(&PROMPT, &options)?;
    let mut right = model.generate_tokens(&PROMPT, &options)?;
    let mut tokens = (Vec::new(), Vec::new());
    while let (Some(l), Some(r)) = (left.next(), right.next()) {
        tokens.0.push(l?.token);
        tokens.1.push(r?.token);
    }
    assert_eq!(tokens, (alone.clone(), alone));
    Ok(())
}

#[test]
fn the_token_limit_ends_with_length_and_counts() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generation =
        model.generate_tokens(&PROMPT, &GenerateOptions::default().max_tokens(5))?;
    let segments: Vec<_> = generation.by_ref().collect::<Result<_, _>>()?;
    assert_eq!(segments.len(), 5);
    assert!(
        segments[..4]
            .iter()
            .all(|segment| segment.finish_reason.is_none())
    );
    assert_eq!(segments[4].finish_reason, Some(FinishReason::Length));
    let stats = generation.stats();
    assert_eq!((stats.prompt_tokens, stats.generation_tokens), (9, 5));
    assert_eq!(stats.finish_reason, Some(FinishReason::Length));
    assert!(stats.peak_memory > 0 && stats.prompt_tps() > 0.0 && stats.generation_tps() > 0.0);
    assert!(generation.next().is_none());
    Ok(())
}

#[test]
fn a_limit_of_zero_generates_nothing() -> Outcome {
    let model = model(&config("llama"))?;
    let mut generation =
        model.generate_tokens(&PROMPT, &GenerateOptions::default().max_tokens(0))?;
    assert!(generation.next().is_none());
    assert_eq!(generation.stats().finish_reason, Some(FinishReason::Length));
    Ok(())
}

#[test]
fn an_eos_token_ends_with_stop_and_is_not_text() -> Outcome {
    let greedy = answer(
        &model(&config("llama"))?,
        &GenerateOptions::default().max_tokens(6),
    )?;
    let stop_at = greedy[3];
    let first = greedy
        .iter()
        .position(|&token| token == stop_at)
        .unwrap_or(3);
    let model = model(&with(
        config("llama"),
        json!({ "eos_token_id": [1, stop_at] }),
    ))?;
    let mut generation =
        model.generate_tokens(&PROMPT, &GenerateOptions::default().max_tokens(6))?;
    let segments: Vec<_> = generation.by_ref().collect::<Result<_, _>>()?;
    assert_eq!(segments.len(), first + 1);
    assert_eq!(segments[first].finish_reason, Some(FinishReason::Stop));
    let text: String = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    assert_eq!(text, model.tokenizer().decode(&greedy[..first], true)?);
    Ok(())
}

#[test]
fn a_stop_string_cuts_the_text() -> Outcome {
    let model = mlx_lm::load(prose())?;
    let options = GenerateOptions::default()
        .max_tokens(24)
        .temperature(Some(0.0));
    let text = model.generate("The captain looked", &options)?.text()?;
    let stop: String = text.chars().skip(10).take(5).collect();
    let expected = &text[..text.find(&stop).unwrap_or_default()];
    let mut generation = model.generate("The captain looked", &options.stop(vec![stop]))?;
    assert_eq!(generation.text()?, expected);
    assert_eq!(generation.stats().finish_reason, Some(FinishReason::Stop));
    Ok(())
}

#[test]
fn streamed_text_equals_the_decoded_tokens() -> Outcome {
    let model = mlx_lm::load(prose())?;
    let options = GenerateOptions::default()
        .max_tokens(48)
        .temperature(Some(0.0));
    let segments: Vec<_> = model
        .generate("It was a dark", &options)?
        .collect::<Result<_, _>>()?;
    let text: String = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    let tokens: Vec<u32> = segments.iter().map(|segment| segment.token).collect();
    assert_eq!(text, model.tokenizer().decode(&tokens, true)?);
    assert!(text.split_whitespace().count() > 10, "{text}");
    Ok(())
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_sizes() -> Outcome {
    let model = model(&config("llama"))?;
    let long: Vec<u32> = (1..=128).collect();
    let error = model
        .generate_tokens(&long, &GenerateOptions::default())
        .err()
        .ok_or("accepted")?;
    assert_eq!(
        error.to_string(),
        "the prompt has 128 tokens but the model's context holds 128"
    );
    let error = model
        .generate_tokens(&[], &GenerateOptions::default())
        .err()
        .ok_or("accepted")?;
    assert!(matches!(error, Error::EmptyPrompt));
    Ok(())
}

#[test]
fn generation_ends_with_the_context() -> Outcome {
    let model = model(&config("llama"))?;
    let prompt: Vec<u32> = (1..=125).collect();
    let mut generation = model.generate_tokens(&prompt, &GenerateOptions::default())?;
    assert_eq!(generation.by_ref().count(), 3);
    assert_eq!(generation.stats().finish_reason, Some(FinishReason::Length));
    Ok(())
}

#[test]
fn a_limited_cache_lets_text_outgrow_the_context() -> Outcome {
    let model = model(&config("llama"))?;
    let prompt: Vec<u32> = (1..=120).collect();
    let options = GenerateOptions::default()
        .max_tokens(40)
        .max_kv_size(Some(32));
    assert_eq!(model.generate_tokens(&prompt, &options)?.count(), 40);
    Ok(())
}

#[test]
fn a_cache_limit_beyond_the_text_changes_nothing() -> Outcome {
    let model = model(&config("qwen2"))?;
    let options = GenerateOptions::default().max_tokens(20);
    let unlimited = answer(&model, &options)?;
    assert_eq!(answer(&model, &options.max_kv_size(Some(64)))?, unlimited);
    Ok(())
}

#[test]
fn a_raised_flag_cancels() -> Outcome {
    let model = model(&config("llama"))?;
    let cancel = CancelFlag::new();
    let mut generation =
        model.generate_tokens(&PROMPT, &GenerateOptions::default().cancel(cancel.clone()))?;
    assert!(generation.next().is_some_and(|segment| segment.is_ok()));
    cancel.cancel();
    assert!(matches!(generation.next(), Some(Err(Error::Cancelled))));
    assert!(generation.next().is_none());
    Ok(())
}

#[test]
fn a_batch_equals_its_rows() -> Outcome {
    let loaded = model(&config("qwen3"))?;
    let model = loaded.model();
    let rows = [[5_u32, 6, 7], [800, 2, 91]];
    let both = mlx_core::Array::from_slice::<u32>(&rows.concat(), &[2, 3])?;
    let both = model.forward(&both, &mut model.make_cache(&CacheOptions::default()))?;
    for (index, tokens) in (0..).zip(rows) {
        let single = model.forward(
            &row(&tokens)?,
            &mut model.make_cache(&CacheOptions::default()),
        )?;
        let expected = slice(&both, &[index, 0, 0], &[index + 1, 3, 4096])?;
        assert!(distance(&expected, &single)? < 1e-4);
    }
    Ok(())
}

#[test]
fn a_cache_of_another_model_is_refused() -> Outcome {
    let loaded = model(&config("llama"))?;
    let model = loaded.model();
    let mut cache = model.make_cache(&CacheOptions::default());
    cache.pop();
    assert!(matches!(
        model.forward(&row(&PROMPT)?, &mut cache),
        Err(Error::Option {
            option: "cache",
            ..
        })
    ));
    Ok(())
}

#[test]
fn generation_config_sets_the_defaults_and_options_override_them() -> Outcome {
    let folder = checkpoint(&config("llama"))?;
    let file = json!({ "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": 3 });
    std::fs::write(
        folder.path().join("generation_config.json"),
        file.to_string(),
    )?;
    let model = mlx_lm::load(folder.path())?;
    let sampling = GenerateOptions::default()
        .temperature(Some(0.2))
        .sampling(model.sampling());
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k),
        (0.2, 0.9, 20)
    );
    assert!(model.tokenizer().is_eos(3));
    Ok(())
}
