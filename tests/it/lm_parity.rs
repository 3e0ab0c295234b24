//! Tiny checkpoints of every architecture against Python mlx-lm, or against transformers where
//! the note says that mlx-lm departs from the model's definition.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use mlx_core::{Array, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::chat::Message;
use mlx_lm::generate::{Event, Generator, Request, SequenceId, Speculation};
use mlx_lm::load::{QuantizeOptions, SaveOptions};
use mlx_lm::{GenerateOptions, LoadedModel, Loader, SamplingOptions};
use mlx_nn::parameters;
use serde_json::Value;

use crate::support::{
    Outcome, argmax, arrays, copied, fixture, ids, json, relative_difference, row, tokens, values,
};

macro_rules! cases {
    ($($name:ident: $path:literal,)+) => {
        $(
            #[test]
            fn $name() -> Outcome {
                check($path)
            }
        )+

        const CASES: &[&str] = &[$($path),+];
    };
}

cases! {
    llama_f32: "llama/f32",
    llama_bf16: "llama/bf16",
    llama_with_biases: "llama/bias",
    llama_4_bit_f32: "llama/q4-f32",
    llama_4_bit_bf16: "llama/q4-bf16",
    llama_in_two_shards_with_llama3_rope: "llama/sharded-rope-llama3",
    llama_with_linear_rope: "llama/rope-linear",
    llama_with_dynamic_rope: "llama/rope-dynamic",
    llama_with_yarn_rope: "llama/rope-yarn",
    llama_with_longrope_below_its_original_length: "llama/rope-longrope-short",
    llama_with_longrope_beyond_its_original_length: "llama/rope-longrope-long",
    llama_with_nested_rope_parameters: "llama/rope-parameters",
    mistral_with_its_own_head_dim: "mistral/f32",
    mistral_with_a_sliding_window: "mistral/sliding",
    qwen2_f32: "qwen2/f32",
    qwen2_bf16: "qwen2/bf16",
    qwen2_4_bit: "qwen2/q4-bf16",
    qwen3_f32: "qwen3/f32",
    qwen3_bf16: "qwen3/bf16",
    qwen3_of_4_and_8_bits_and_a_dense_layer: "qwen3/q4-mixed",
    gemma2_f32: "gemma2/f32",
    gemma2_within_its_window: "gemma2/wide",
    gemma3_text_f32: "gemma3_text/f32",
    gemma3_text_with_nested_rope_parameters: "gemma3_text/rope-parameters",
    gemma3_without_its_vision_part: "gemma3/f32",
    gemma3_of_a_configuration_that_leaves_out_defaults: "gemma3/sparse",
    gemma4_without_its_other_parts: "gemma4/f32",
    gemma4_unified_without_its_other_parts: "gemma4_unified/f32",
    kimi_k2_by_the_weights_of_deepseek_v3: "kimi_k2/f32",
    qwen2_vl_without_its_vision_part: "qwen2_vl/f32",
    qwen2_5_vl_without_its_vision_part: "qwen2_5_vl/f32",
    qwen3_vl_without_its_vision_part: "qwen3_vl/f32",
    qwen3_vl_with_experts_without_its_vision_part: "qwen3_vl_moe/f32",
    qwen3_5_without_its_vision_part: "qwen3_5/f32",
    qwen3_5_with_experts_without_its_vision_part: "qwen3_5_moe/f32",
    lfm2_with_rope_scaling: "lfm2/rope-scaling",
    gemma4_text_with_rope_scaling: "gemma4_text/rope-scaling",
    phi3_f32: "phi3/f32",
    phi3_with_a_sliding_window: "phi3/sliding",
    phi3_with_longrope_below_its_original_length: "phi3/longrope-short",
    phi3_with_longrope_beyond_its_original_length: "phi3/longrope-long",
    smollm3_f32: "smollm3/f32",
    olmo2_f32: "olmo2/f32",
    olmo3_f32: "olmo3/f32",
    granite_f32: "granite/f32",
    cohere2_f32: "cohere2/f32",
    glm4_f32: "glm4/f32",
    llama_packed_by_awq: "llama/awq",
    llama_packed_by_gptq: "llama/gptq",
    llama_packed_by_gptq_in_another_order: "llama/gptq-act-order",
    llama_in_blocks_of_8_bit_floats: "llama/fp8",
    llama_of_packed_integers: "llama/pack-quantized",
    llama_of_4_bit_floats_of_nvidia: "llama/nvfp4-pack",
    llama_of_4_bit_floats_of_ocp: "llama/mxfp4-pack",
    llama_of_ternary_weights: "llama/bitnet",
    gpt_oss_with_packed_experts: "gpt_oss/mxfp4",
    gpt2_f32: "gpt2/f32",
    ministral3_f32: "ministral3/f32",
    mistral3_without_its_vision_part: "mistral3/f32",
    cohere2_converted_by_mlx_lm: "cohere2/q4-mlx",
    deepseek_v2_converted_by_mlx_lm: "deepseek_v2/q4-mlx",
    deepseek_v3_converted_by_mlx_lm: "deepseek_v3/q4-mlx",
    gemma2_converted_by_mlx_lm: "gemma2/q4-mlx",
    gemma4_text_converted_by_mlx_lm: "gemma4_text/q4-mlx",
    glm4_converted_by_mlx_lm: "glm4/q4-mlx",
    glm4_moe_converted_by_mlx_lm: "glm4_moe/q4-mlx",
    gpt_oss_converted_by_mlx_lm: "gpt_oss/q4-mlx",
    lfm2_moe_converted_by_mlx_lm: "lfm2_moe/q4-mlx",
    ministral3_converted_by_mlx_lm: "ministral3/q4-mlx",
    mixtral_converted_by_mlx_lm: "mixtral/q4-mlx",
    nemotron_h_converted_by_mlx_lm: "nemotron_h/q4-mlx",
    olmo3_converted_by_mlx_lm: "olmo3/q4-mlx",
    phi3_converted_by_mlx_lm: "phi3/q4-mlx",
    qwen2_moe_converted_by_mlx_lm: "qwen2_moe/q4-mlx",
    qwen3_moe_converted_by_mlx_lm: "qwen3_moe/q4-mlx",
    qwen3_next_converted_by_mlx_lm: "qwen3_next/q4-mlx",
    qwen3_next_f32: "qwen3_next/f32",
    qwen3_5_f32: "qwen3_5_text/f32",
    qwen3_5_with_experts: "qwen3_5_moe_text/f32",
    lfm2_f32: "lfm2/f32",
    lfm2_with_experts: "lfm2_moe/f32",
    mamba2_f32: "mamba2/f32",
    falcon_h1_f32: "falcon_h1/f32",
    falcon_h1_with_tied_embeddings: "falcon_h1/tied",
    granitemoehybrid_with_experts: "granitemoehybrid/f32",
    granitemoehybrid_dense: "granitemoehybrid/dense",
    nemotron_h_f32: "nemotron_h/f32",
    gemma4_text_f32: "gemma4_text/f32",
    gemma4_text_with_experts: "gemma4_text/experts",
    mixtral_f32: "mixtral/f32",
    qwen2_moe_f32: "qwen2_moe/f32",
    qwen2_moe_with_weights_that_do_not_add_up: "qwen2_moe/plain",
    qwen3_moe_f32: "qwen3_moe/f32",
    gpt_oss_f32: "gpt_oss/f32",
    glm4_moe_f32: "glm4_moe/f32",
    deepseek_v2_f32: "deepseek_v2/f32",
    deepseek_v2_lite: "deepseek_v2/lite",
    deepseek_v3_f32: "deepseek_v3/f32",
}

#[test]
fn every_fixture_has_its_test() -> Outcome {
    let mut found = Vec::new();
    for model_type in fs::read_dir(fixture("lm"))? {
        let model_type = model_type?;
        for case in fs::read_dir(model_type.path())? {
            found.push(format!(
                "{}/{}",
                model_type.file_name().display(),
                case?.file_name().display()
            ));
        }
    }
    found.sort();
    let mut tested = CASES.to_vec();
    tested.sort_unstable();
    assert_eq!(found, tested);
    Ok(())
}

#[test]
fn constants_of_recurrences_and_routers_are_not_narrowed() -> Outcome {
    let case = Case::load("nemotron_h/f32")?;
    let folder = tempfile::TempDir::new()?;
    case.model.save(folder.path(), &SaveOptions::default())?;
    let narrow = Loader::new(folder.path()).dtype(Dtype::Bfloat16).load()?;
    let exact = [
        ".A_log",
        ".D",
        ".dt_bias",
        ".gate.weight",
        ".e_score_correction_bias",
    ];
    let mut found = 0;
    for (key, array) in parameters(narrow.model()) {
        let is_exact = exact.iter().any(|end| key.ends_with(end));
        found += usize::from(is_exact);
        let expected = if is_exact {
            Dtype::Float32
        } else {
            Dtype::Bfloat16
        };
        assert_eq!(array.dtype(), expected, "{key}");
    }
    assert_eq!(found, exact.len());
    // What runs past the layers is none of them.
    let mut cache = narrow.model().make_cache(&CacheOptions::default());
    let logits = narrow.model().forward(&row(&[1, 2, 3]), &mut cache)?;
    assert_eq!(logits.dtype(), Dtype::Bfloat16);
    Ok(())
}

struct Case {
    model: LoadedModel,
    note: Value,
    folder: PathBuf,
    tolerance: f32,
}

impl Case {
    /// Loads a case; one without weights borrows the folder that its note names.
    fn load(path: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = fixture("lm").join(path);
        let note = json(folder.join("note.json"));
        let whole = match note["weights"].as_str() {
            None => copied(&folder),
            Some(lender) => {
                let whole = copied(folder.join(lender));
                fs::copy(folder.join("config.json"), whole.path().join("config.json"))?;
                whole
            }
        };
        let tokenizer = whole.path().join("tokenizer.json");
        if !tokenizer.exists() {
            // All cases have the same one.
            fs::copy(fixture("lm/llama/f32/tokenizer.json"), tokenizer)?;
        }
        let tolerance = serde_json::from_value(note["tolerance"].clone())?;
        let dtype = match note["dtype"].as_str() {
            Some("float32") => Dtype::Float32,
            _ => Dtype::Bfloat16,
        };
        let model = Loader::new(whole.path()).dtype(dtype).load()?;
        Ok(Self {
            model,
            note,
            folder,
            tolerance,
        })
    }

    /// The logits of each token when they arrive `chunk` at a time.
    fn logits(&self, prompt: &[u32], chunk: usize) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let model = self.model.model();
        let mut cache = model.make_cache(&CacheOptions::default());
        let mut all = Vec::new();
        for tokens in prompt.chunks(chunk) {
            all.extend(values(&model.forward(&row(tokens), &mut cache)?));
        }
        Ok(all)
    }

    /// Greedy tokens through the cache, by hand.
    fn greedy(&self, prompt: &[u32], count: usize) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
        let model = self.model.model();
        let vocab = usize::try_from(model.vocab_size())?;
        let mut cache = model.make_cache(&CacheOptions::default());
        let (last, before) = prompt.split_last().ok_or("empty prompt")?;
        let _unread = model.forward(&row(before), &mut cache)?;
        let mut next = *last;
        let mut tokens = Vec::new();
        while tokens.len() < count {
            let logits = values(&model.forward(&row(&[next]), &mut cache)?);
            assert_eq!(logits.len(), vocab);
            next = argmax(&logits);
            tokens.push(next);
        }
        Ok(tokens)
    }

    /// The case with another model.
    fn with(&self, model: LoadedModel) -> Self {
        Self {
            model,
            note: self.note.clone(),
            folder: self.folder.clone(),
            tolerance: self.tolerance,
        }
    }

    #[track_caller]
    fn close(&self, what: &str, found: &[f32], expected: &[f32]) {
        let gap = relative_difference(found, expected);
        assert!(
            gap <= self.tolerance,
            "{}: {what} differ by {gap:.2e}",
            self.folder.display()
        );
    }
}

fn check(path: &str) -> Outcome {
    let case = Case::load(path)?;
    let golden = arrays(case.folder.join("golden.safetensors"));
    let (prompt, greedy) = (tokens(&golden["prompt"]), tokens(&golden["greedy"]));
    let at_once = case.logits(&prompt, prompt.len())?;
    // Quantised bfloat16 layers sum in one precision or the other, which the back end decides.
    let ways = ["logits", "logits_float32_sums"].map(|name| golden.get(name).map(values));
    let gap = |way: &Vec<f32>| relative_difference(&at_once, way);
    let expected = ways
        .into_iter()
        .flatten()
        .min_by(|a, b| gap(a).total_cmp(&gap(b)));
    let expected = expected.ok_or("no logits")?;
    case.close("logits", &at_once, &expected);
    let one_by_one = case.logits(&prompt, 1)?;
    let stepwise = golden.get("steps").map_or(expected, values);
    case.close("logits token by token", &one_by_one, &stepwise);

    assert_eq!(
        case.greedy(&prompt, greedy.len())?,
        greedy,
        "greedy tokens through the cache"
    );
    if case.note["cache_invariant"] == true {
        case.close("logits with and without the cache", &one_by_one, &at_once);
        let chunked = case.logits(&prompt, 5)?;
        case.close("logits in chunks", &chunked, &at_once);
        assert_eq!(
            without_cache(&case, &prompt, &greedy)?,
            greedy,
            "greedy tokens in one pass"
        );
    }
    let room = case
        .model
        .model()
        .max_position_embeddings()
        .unwrap_or(i32::MAX);
    if prompt.len() + greedy.len() <= usize::try_from(room)? {
        let options = GenerateOptions::default()
            .max_tokens(greedy.len())
            .temperature(Some(0.0));
        let generation = case.model.generate_tokens(&prompt, &options)?;
        let generated = generation
            .map(|segment| Ok(segment?.token))
            .collect::<Result<Vec<u32>, mlx_lm::Error>>()?;
        assert_eq!(generated, greedy, "generated tokens");
    }
    if let Some(chat) = case.note.get("chat") {
        renders(&case.model, chat)?;
    }
    rows_do_not_mix(&case, &prompt, &one_by_one)?;
    if case.note["cache_invariant"] == false {
        chunks_of_a_prompt_turn_by_its_length(&case, &prompt, &greedy)?;
    } else if case.note["dtype"] == "float32" {
        prompts_together_are_answered_as_alone(&case, &prompt)?;
    }
    // A case that borrows weights has nothing of its own to write.
    if case.note["weights"].is_null() {
        quantised_and_sharded_copies_agree(&case, &prompt)?;
    }
    Ok(())
}

/// An answer and what the model thought of each of its tokens.
#[derive(Default)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

/// What a generator answers to prompts that it gets at once.
fn answers(
    case: &Case,
    prompts: &[Vec<u32>],
    prefill_step_size: usize,
    speculation: Option<Speculation<'_>>,
) -> Result<Vec<Answer>, Box<dyn std::error::Error>> {
    let mut generator = Generator::new(case.model.model());
    if let Some(speculation) = speculation {
        generator = generator.speculation(speculation);
    }
    let sampling = SamplingOptions::default().logprobs(Some(0));
    let mut ids = Vec::new();
    for prompt in prompts {
        let length = 9 + prompt.len() % 6;
        let mut request = Request::new(prompt.clone()).sampling(sampling.clone());
        request.prefill_step_size = prefill_step_size;
        ids.push(generator.insert(request.max_tokens(length))?);
    }
    let mut answers: HashMap<SequenceId, Answer> = HashMap::new();
    while !generator.is_idle() {
        for event in generator.step()? {
            match event {
                Event::Segment { id, segment } => {
                    let answer = answers.entry(id).or_default();
                    answer.tokens.push(segment.token);
                    answer.logprobs.push(segment.logprob.ok_or("no logprob")?);
                }
                Event::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
    let mut take = |id| answers.remove(id).ok_or("no answer");
    Ok(ids.iter().map(&mut take).collect::<Result<_, _>>()?)
}

/// Three prompts of different lengths, decoded together, give what each gives alone, also when
/// tokens are drafted and checked several at a time; and so do prompts of one length, which
/// recurrent models too process in one pass.
fn prompts_together_are_answered_as_alone(case: &Case, prompt: &[u32]) -> Outcome {
    let turned = |by: usize, length: usize| -> Vec<u32> {
        let tokens = prompt.iter().cycle().skip(by);
        tokens.take(length).copied().collect()
    };
    let even = [turned(0, 9), turned(3, 9), turned(7, 9)];
    prompts_agree(case, &even, &[(512, None)])?;
    // The last repeats itself, so that there is something to look up.
    let ragged = [turned(0, prompt.len()), turned(3, 5), turned(7, 23)];
    let lookup = Speculation::prompt_lookup(3, 1, 4);
    let own = Speculation::model(case.model.model(), 3);
    // In steps of 512 the prompts are processed together, in steps of 6 one after the other.
    let ways = [
        (512, None),
        (6, None),
        (512, Some(lookup)),
        (512, Some(own)),
    ];
    prompts_agree(case, &ragged, &ways)
}

/// Where the way that positions turn depends on the length of the text, the answer is the one of the
/// prompt in one pass, whatever chunks it comes in; and where it depends on each text's own length,
/// prompts beyond the point where it changes are answered together as alone.
fn chunks_of_a_prompt_turn_by_its_length(case: &Case, prompt: &[u32], greedy: &[u32]) -> Outcome {
    let turned = |by: usize, length: usize| -> Vec<u32> {
        let tokens = prompt.iter().cycle().skip(by);
        tokens.take(length).copied().collect()
    };
    let chunked = |prompt: &[u32]| -> Result<Vec<u32>, Box<dyn std::error::Error>> {
        let at_once = answers(case, &[prompt.to_vec()], 512, None)?;
        for step in [3, 6] {
            let in_steps = answers(case, &[prompt.to_vec()], step, None)?;
            assert_eq!(in_steps[0].tokens, at_once[0].tokens, "{step}");
        }
        Ok(at_once[0].tokens.clone())
    };
    if case.folder.ends_with("rope-dynamic") {
        // The base follows the longest text of a batch, and the context is short.
        let short = turned(0, 11);
        let logits = case.logits(&short, short.len())?;
        let last = logits.len() - usize::try_from(case.model.model().vocab_size())?;
        assert_eq!(chunked(&short)?.first(), Some(&argmax(&logits[last..])));
        return Ok(());
    }
    let answer = chunked(prompt)?;
    assert_eq!(Some(answer.as_slice()), greedy.get(..answer.len()));
    let ragged = [turned(0, prompt.len()), turned(3, 9), turned(7, 23)];
    let lookup = Speculation::prompt_lookup(3, 1, 4);
    prompts_agree(
        case,
        &ragged,
        &[(512, None), (6, None), (512, Some(lookup))],
    )
}

/// Answers to all prompts at once, for each step of the prefill and way to speculate, against those
/// to each.
fn prompts_agree(
    case: &Case,
    prompts: &[Vec<u32>],
    ways: &[(usize, Option<Speculation<'_>>)],
) -> Outcome {
    let mut alone = Vec::new();
    for prompt in prompts {
        alone.extend(answers(case, std::slice::from_ref(prompt), 512, None)?);
    }
    for (step, speculation) in ways {
        let how = format!("{}, {step}, {speculation:?}", case.folder.display());
        let together = answers(case, prompts, *step, speculation.clone())?;
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(together.tokens, alone.tokens, "{how}");
            // Of a token that is all but certain it may be zero, so they are compared as they are.
            for (together, alone) in together.logprobs.iter().zip(&alone.logprobs) {
                let gap = (together - alone).abs();
                assert!(gap < 5e-3, "{how}: {together}, {alone}");
            }
        }
    }
    Ok(())
}

/// A batch of three prompts of one length gives what each gives alone, in one pass and in steps.
fn rows_do_not_mix(case: &Case, prompt: &[u32], alone: &[f32]) -> Outcome {
    let model = case.model.model();
    let length = prompt.len();
    let turned = |by: usize| prompt.iter().cycle().skip(by).take(length).copied();
    let rows: Vec<u32> = turned(0).chain(turned(5)).chain(turned(11)).collect();
    let ids = Array::from_slice::<u32>(&rows, &[3, i32::try_from(length)?])?;
    let at_once = model.forward(&ids, &mut model.make_cache(&CacheOptions::default()))?;
    for (row, found) in rows
        .chunks(length)
        .zip(values(&at_once).chunks(alone.len()))
    {
        case.close("logits of a row", found, &case.logits(row, length)?);
    }
    let mut cache = model.make_cache(&CacheOptions::default());
    let mut steps = Vec::new();
    for position in 0..length {
        let column: Vec<u32> = rows.chunks(length).map(|row| row[position]).collect();
        let logits = model.forward(&Array::from_slice::<u32>(&column, &[3, 1])?, &mut cache)?;
        steps.extend_from_slice(&values(&logits)[..alone.len() / length]);
    }
    case.close("logits of the first row in steps", &steps, alone);
    Ok(())
}

/// The model quantised to 4 bits, written in shards and read again, computes what it did before.
fn quantised_and_sharded_copies_agree(case: &Case, prompt: &[u32]) -> Outcome {
    let folder = tempfile::TempDir::new()?;
    let copy = |name: &str| folder.path().join(name);
    let options = SaveOptions::default().shard_bytes(20_000);
    case.model.save(copy("dense"), &options)?;
    let shards = fs::read_dir(copy("dense"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .count();
    assert!(shards > 1, "{}: one shard", case.folder.display());
    let again = case.with(Loader::new(copy("dense")).load()?);
    let dense = case.logits(prompt, prompt.len())?;
    assert!(again.logits(prompt, prompt.len())? == dense, "sharded copy");
    let is_packed = ["quantization", "quantization_config"]
        .iter()
        .any(|key| case.model.text_config().contains_key(*key));
    if is_packed {
        return Ok(());
    }

    let quantise = QuantizeOptions::bits(4).group_size(32);
    let small = case.with(Loader::new(copy("dense")).quantize(quantise).load()?);
    let coarse = small.logits(prompt, prompt.len())?;
    assert!(
        relative_difference(&coarse, &dense) > 1e-3,
        "nothing was quantised"
    );
    small.model.save(copy("small"), &options)?;
    let stored = case.with(Loader::new(copy("small")).load()?);
    assert!(stored.logits(prompt, prompt.len())? == coarse, "4-bit copy");
    case.close(
        "4-bit logits token by token",
        &stored.logits(prompt, 1)?,
        &coarse,
    );
    Ok(())
}

/// The choices of a single pass over prompt and answer, which needs no cache.
fn without_cache(
    case: &Case,
    prompt: &[u32],
    greedy: &[u32],
) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
    let all: Vec<u32> = prompt.iter().chain(greedy).copied().collect();
    let logits = case.logits(&all, all.len())?;
    let vocab = usize::try_from(case.model.model().vocab_size())?;
    let choices = logits.chunks(vocab).map(argmax);
    Ok(choices.skip(prompt.len() - 1).take(greedy.len()).collect())
}

fn renders(model: &LoadedModel, chat: &Value) -> Outcome {
    let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone())?;
    let text = model
        .tokenizer()
        .apply_chat_template(&messages, &Default::default())?;
    assert_eq!(text, chat["text"].as_str().unwrap_or_default());
    assert_eq!(model.tokenizer().encode(&text, false)?, ids(&chat["ids"]));
    Ok(())
}
