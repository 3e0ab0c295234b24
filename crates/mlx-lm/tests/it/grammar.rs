//! Answers that match a grammar, written by a model of random weights.

use std::fs;
use std::path::Path;

use mlx_core::Dtype;
use mlx_lm::generate::{Event, Generator, Request, Speculation};
use mlx_lm::grammar::{Grammar, GrammarCompiler};
use mlx_lm::sample::SamplingOptions;
use mlx_lm::{Error, GenerateOptions, LoadedModel, Loader};
use serde_json::{Value, json};

use crate::support::{Outcome, config, model, with};

pub(crate) fn random_model() -> Result<LoadedModel, Box<dyn std::error::Error>> {
    model(&with(
        config("llama"),
        json!({ "max_position_embeddings": 4096 }),
    ))
}

fn request(grammar: &Grammar, seed: u64) -> Request {
    let sampling = SamplingOptions::default()
        .temperature(1.0)
        .top_k(200)
        .seed(Some(seed));
    Request::new([5_u32, 900, 17])
        .sampling(sampling)
        .max_tokens(600)
        .grammar(Some(grammar.clone()))
}

/// The texts of several requests on one generator; `None` for those that ran
/// into their limit.
pub(crate) fn texts(
    generator: &mut Generator<'_>,
    requests: Vec<Request>,
) -> Result<Vec<Option<String>>, Error> {
    let mut ids = Vec::new();
    for request in requests {
        ids.push(generator.insert(request)?);
    }
    let mut texts = vec![(String::new(), false); ids.len()];
    while !generator.is_idle() {
        for event in generator.step()? {
            let index = ids.iter().position(|&id| id == event.id()).unwrap_or(0);
            match event {
                Event::Segment { segment, .. } => texts[index].0.push_str(&segment.text),
                Event::Finished { stats, .. } => {
                    let reason = stats.finish_reason;
                    texts[index].1 = reason == Some(mlx_lm::FinishReason::Stop);
                }
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
    }
    Ok(texts
        .into_iter()
        .map(|(text, complete)| complete.then_some(text))
        .collect())
}

/// A small generator of numbers, so that the schemas are the same everywhere.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let count = u64::try_from(items.len()).unwrap_or(1);
        &items[usize::try_from(self.below(count)).unwrap_or(0)]
    }
}

const WORDS: [&str; 6] = ["id", "name", "größe", "a b", "x\"y", "items"];

/// A schema of the kinds that the test suite for JSON Schema has: types,
/// bounds, enumerations, constants, patterns, formats, nesting, references.
fn schema(random: &mut Lcg, depth: u64) -> Value {
    let kinds = if depth == 0 { 11 } else { 17 };
    match random.below(kinds) {
        0 => json!({ "type": "string", "maxLength": 2 + random.below(9) }),
        1 => {
            let low = random.below(50);
            json!({ "type": "integer", "minimum": low, "maximum": low + random.below(1000) })
        }
        2 => json!({ "type": "number", "minimum": -2.5, "exclusiveMaximum": 10 }),
        3 => json!({ "type": "boolean" }),
        4 => json!({ "type": "null" }),
        5 => json!({ "enum": [1, "two", null, [3], { "four": 4.5 }, *random.pick(&WORDS)] }),
        6 => json!({ "const": { "fixed": [true, *random.pick(&WORDS)] } }),
        7 => json!({ "type": "string", "pattern": "^[a-c]{2,5}-[0-9]+$", "maxLength": 12 }),
        8 => {
            json!({ "type": "string", "format": *random.pick(&["date", "time", "date-time", "ipv4", "uuid"]) })
        }
        9 => json!({ "type": ["integer", "null"], "minimum": 0, "maximum": 99 }),
        10 => json!({ "type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700 }),
        11 | 12 => {
            let low = random.below(3);
            json!({
                "type": "array", "items": schema(random, depth - 1),
                "minItems": low, "maxItems": low + random.below(3),
            })
        }
        13 => json!({
            "type": "array",
            "prefixItems": [schema(random, depth - 1), schema(random, depth - 1)],
            "items": false, "minItems": 2,
        }),
        14 => json!({ "anyOf": [schema(random, depth - 1), schema(random, depth - 1)] }),
        15 => json!({ "$ref": "#/$defs/leaf" }),
        _ => object(random, depth),
    }
}

fn object(random: &mut Lcg, depth: u64) -> Value {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for word in WORDS {
        if random.below(2) == 0 {
            properties.insert(word.to_owned(), schema(random, depth.saturating_sub(1)));
            if random.below(3) > 0 {
                required.push(word);
            }
        }
    }
    json!({
        "type": "object", "properties": properties,
        "required": required, "additionalProperties": false,
    })
}

fn schemas() -> Vec<Value> {
    let mut random = Lcg(2026);
    (0..200)
        .map(|index| {
            let mut schema = object(&mut random, index % 3);
            schema["$defs"] = json!({ "leaf": { "type": "string", "enum": ["p", "q"] } });
            schema
        })
        .collect()
}

/// Checks an answer against its schema, by another implementation.
pub(crate) fn check(schema: &Value, text: Option<&str>) -> Outcome {
    let text = text.ok_or_else(|| format!("no end for {schema}"))?;
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    let validator = jsonschema::validator_for(schema).map_err(|error| error.to_string())?;
    match validator.validate(&value) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{error}: {text} for {schema}").into()),
    }
}

#[test]
fn two_hundred_schemas_hold_in_batches() -> Outcome {
    let model = random_model()?;
    let mut generator = Generator::new(model.model()).tokenizer(model.tokenizer());
    let schemas = schemas();
    let requests = (0..).zip(&schemas).map(|(seed, schema)| {
        let grammar = Grammar::json_schema(schema.clone());
        request(&grammar, seed)
    });
    let texts = texts(&mut generator, requests.collect())?;
    for (schema, text) in schemas.iter().zip(&texts) {
        check(schema, text.as_deref())?;
    }
    Ok(())
}

#[test]
fn two_hundred_schemas_hold_one_by_one() -> Outcome {
    let model = random_model()?;
    let compiler = GrammarCompiler::new(model.tokenizer())?;
    for (seed, schema) in (1000..).zip(schemas()) {
        let mut generator = Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .grammar_compiler(compiler.clone());
        let request = request(&Grammar::json_schema(schema.clone()), seed);
        check(&schema, texts(&mut generator, vec![request])?[0].as_deref())?;
    }
    Ok(())
}

#[test]
fn two_hundred_schemas_hold_with_speculation() -> Outcome {
    let model = random_model()?;
    let schemas = schemas();
    for (speculation, half) in [
        (Speculation::prompt_lookup(2, 1, 4), &schemas[..100]),
        (Speculation::model(model.model(), 3), &schemas[100..]),
    ] {
        let mut generator = Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .speculation(speculation);
        let requests = (0..).zip(half).map(|(seed, schema)| {
            let grammar = Grammar::json_schema(schema.clone());
            request(&grammar, seed)
        });
        let texts = texts(&mut generator, requests.collect())?;
        for (schema, text) in half.iter().zip(&texts) {
            check(schema, text.as_deref())?;
        }
    }
    Ok(())
}

#[test]
fn a_regular_expression_and_a_lark_grammar_bind_the_answer() -> Outcome {
    let model = random_model()?;
    let mut generator = Generator::new(model.model()).tokenizer(model.tokenizer());
    let lark =
        "start: greeting \" \" NAME\ngreeting: \"hello\" | \"good day\"\nNAME: /[A-Z][a-z]{1,6}/";
    let requests = vec![
        request(&Grammar::regex("[ab]{3}-(yes|no)"), 1),
        request(&Grammar::lark(lark), 2),
        request(&Grammar::json_object(), 3).max_tokens(5),
    ];
    let texts = texts(&mut generator, requests)?;
    let first = texts[0].clone().ok_or("no end")?;
    assert!(first.ends_with("-yes") || first.ends_with("-no"), "{first}");
    assert!(first.len() <= 7 && first.chars().take(3).all(|c| "ab".contains(c)));
    let second = texts[1].clone().ok_or("no end")?;
    assert!(
        second.starts_with("hello ") || second.starts_with("good day "),
        "{second}"
    );
    Ok(())
}

#[test]
fn greedy_answers_by_a_grammar_are_the_same_with_speculation() -> Outcome {
    let model = random_model()?;
    let grammar = Grammar::json_schema(schemas()[7].clone());
    let greedy = || {
        let mut request = request(&grammar, 0);
        request.sampling = SamplingOptions::default();
        request.max_tokens(60)
    };
    let run = |generator: Generator<'_>| -> Result<String, Error> {
        let mut generator = generator.tokenizer(model.tokenizer());
        let id = generator.insert(greedy())?;
        let mut text = String::new();
        while !generator.is_idle() {
            for event in generator.step()? {
                if let Event::Segment { segment, .. } = &event {
                    assert_eq!(event.id(), id);
                    text.push_str(&segment.text);
                }
            }
        }
        Ok(text)
    };
    let plain = run(Generator::new(model.model()))?;
    assert!(!plain.is_empty());
    for speculation in [
        Speculation::prompt_lookup(2, 1, 4),
        Speculation::model(model.model(), 3),
    ] {
        let generator = Generator::new(model.model()).speculation(speculation);
        assert_eq!(run(generator)?, plain);
    }
    Ok(())
}

/// A tiny checkpoint of the workspace, in float32.
fn fixture(case: &str) -> Result<LoadedModel, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lm");
    let folder = tempfile::TempDir::new()?;
    let files = ["config.json", "model.safetensors"].map(|name| root.join(case).join(name));
    for path in files
        .into_iter()
        .chain([root.join("llama/f32/tokenizer.json")])
    {
        let name = path.file_name().ok_or("no name")?;
        fs::copy(&path, folder.path().join(name))?;
    }
    Ok(Loader::new(folder.path()).dtype(Dtype::Float32).load()?)
}

#[test]
fn hybrid_models_keep_to_schemas_together_and_with_speculation() -> Outcome {
    let leaf = json!({ "enum": ["yes", "no", 7, null, true] });
    let schemas: Vec<Value> = (1..=12)
        .map(|count| {
            let names: Vec<String> = (0..count).map(|index| format!("k{index}")).collect();
            let list = json!({ "type": "array", "items": leaf, "minItems": 1, "maxItems": 3 });
            let properties: serde_json::Map<String, Value> = names
                .iter()
                .zip([&leaf, &list].into_iter().cycle())
                .map(|(name, schema)| (name.clone(), schema.clone()))
                .collect();
            json!({
                "type": "object", "properties": properties, "required": names,
                "additionalProperties": false,
                // Untrained models write spaces for ever.
                "x-guidance": { "whitespace_flexible": false },
            })
        })
        .collect();
    for case in ["qwen3_next/f32", "granitemoehybrid/f32", "falcon_h1/f32"] {
        let model = fixture(case)?;
        let generator = || Generator::new(model.model()).tokenizer(model.tokenizer());
        let requests = |sampling: &SamplingOptions| -> Vec<Request> {
            let request = |(seed, schema): (u64, &Value)| {
                Request::new([5_u32, 90, 17])
                    .sampling(sampling.clone().seed(Some(seed)))
                    .max_tokens(400)
                    .grammar(Some(Grammar::json_schema(schema.clone())))
            };
            (0..).zip(&schemas).map(request).collect()
        };
        let greedy = SamplingOptions::default();
        // So warm that no token is likely, or such models write spaces for ever.
        let warm = greedy.clone().temperature(50.0);
        for (sampling, is_greedy) in [(&warm, false), (&greedy, true)] {
            let mut alone = Vec::new();
            for request in requests(sampling) {
                alone.extend(texts(&mut generator(), vec![request])?);
            }
            for (schema, text) in schemas.iter().zip(&alone) {
                check(schema, text.as_deref())?;
            }
            assert_eq!(
                texts(&mut generator(), requests(sampling))?,
                alone,
                "{case}"
            );
            for speculation in [
                Speculation::prompt_lookup(2, 1, 4),
                Speculation::model(model.model(), 3),
            ] {
                let mut generator = generator().speculation(speculation);
                let together = texts(&mut generator, requests(sampling))?;
                for (schema, text) in schemas.iter().zip(&together) {
                    check(schema, text.as_deref())?;
                }
                if is_greedy {
                    assert_eq!(together, alone, "{case}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_bad_grammar_is_an_error_of_its_own() -> Outcome {
    let model = random_model()?;
    for grammar in [
        Grammar::json_schema(json!({ "type": "unheard-of" })),
        Grammar::regex("(unclosed"),
        Grammar::lark("start: missing"),
    ] {
        let options = GenerateOptions::default().grammar(Some(grammar));
        let error = model.generate("Hello", &options).err().ok_or("accepted")?;
        assert!(matches!(error, Error::Grammar { .. }), "{error}");
        assert!(error.to_string().len() > 12, "{error}");
    }
    Ok(())
}
