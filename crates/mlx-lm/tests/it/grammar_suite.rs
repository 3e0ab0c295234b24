//! The schemas of the test suite for JSON Schema, as far as the grammar compiler supports them.

use std::path::Path;

use mlx_lm::generate::{Generator, Request, Speculation};
use mlx_lm::grammar::{Grammar, GrammarCompiler};
use mlx_lm::sample::SamplingOptions;
use mlx_lm::{Error, LoadedModel};
use serde_json::Value;

use crate::grammar::{check, random_model, texts};
use crate::support::Outcome;

/// How many schemas have to hold.
const WANTED: usize = 200;

/// A schema of the suite, and where it stands there.
struct Case {
    from: String,
    schema: Value,
}

fn suite() -> Result<Vec<Case>, Box<dyn std::error::Error>> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/json-schema/schemas.json");
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    let case = |mut entry: Value| Case {
        from: entry["from"].as_str().unwrap_or_default().to_owned(),
        schema: entry["schema"].take(),
    };
    Ok(all.into_iter().map(case).collect())
}

/// The cases that have a grammar. For the others the compiler says why they have none.
fn supported(compiler: &GrammarCompiler) -> Result<Vec<Case>, Box<dyn std::error::Error>> {
    let mut supported = Vec::new();
    for case in suite()? {
        match compiler.compile(&Grammar::json_schema(case.schema.clone())) {
            Ok(_) => supported.push(case),
            Err(Error::Grammar { message }) => assert!(!message.is_empty(), "{}", case.from),
            Err(other) => return Err(format!("{}: {other}", case.from).into()),
        }
    }
    assert!(
        supported.len() >= WANTED,
        "only {} are supported",
        supported.len()
    );
    supported.truncate(WANTED);
    Ok(supported)
}

/// A request that is in a hurry to close what it has opened: most of the schemas allow any text.
fn request(model: &LoadedModel, case: &Case, seed: u64) -> Result<Request, Error> {
    let mut sampling = SamplingOptions::default()
        .temperature(1.0)
        .top_k(200)
        .seed(Some(seed));
    for close in ["\"", "}", "]", ":", "null"] {
        for token in model.tokenizer().encode(close, false)? {
            sampling.logit_bias.push((token, 9.0));
        }
    }
    for &end in model.tokenizer().eos_ids() {
        sampling.logit_bias.push((end, 12.0));
    }
    let grammar = Grammar::json_schema(case.schema.clone());
    Ok(Request::new([5_u32, 900, 17])
        .sampling(sampling)
        .max_tokens(600)
        .grammar(Some(grammar)))
}

fn hold(cases: &[Case], texts: &[Option<String>]) -> Outcome {
    for (case, text) in cases.iter().zip(texts) {
        let held = check(&case.schema, text.as_deref());
        held.map_err(|error| format!("{}: {error}", case.from))?;
    }
    Ok(())
}

#[test]
fn the_suite_holds_in_batches_and_one_by_one() -> Outcome {
    let model = random_model()?;
    let compiler = GrammarCompiler::new(model.tokenizer())?;
    let cases = supported(&compiler)?;
    let generator = || {
        Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .grammar_compiler(compiler.clone())
    };
    let requests = (0..)
        .zip(&cases)
        .map(|(seed, case)| request(&model, case, seed));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    hold(&cases, &texts(&mut generator(), requests)?)?;
    let mut alone = Vec::new();
    for (seed, case) in (1000..).zip(&cases) {
        alone.extend(texts(&mut generator(), vec![request(&model, case, seed)?])?);
    }
    hold(&cases, &alone)
}

#[test]
fn the_suite_holds_with_speculation() -> Outcome {
    let model = random_model()?;
    let compiler = GrammarCompiler::new(model.tokenizer())?;
    let cases = supported(&compiler)?;
    let mut generator = Generator::new(model.model())
        .tokenizer(model.tokenizer())
        .grammar_compiler(compiler)
        .speculation(Speculation::prompt_lookup(2, 1, 4));
    let requests = (2000..)
        .zip(&cases)
        .map(|(seed, case)| request(&model, case, seed));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    hold(&cases, &texts(&mut generator, requests)?)
}
