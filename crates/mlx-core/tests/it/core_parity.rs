//! Every op against Python's MLX: values, dtypes, shapes, and whether it fails.
//!
//! `cargo xtask parity core` writes the calls and Python's answers; this replays them through the
//! safe API by the name of the op.

#[path = "core_parity/recorded.rs"]
mod recorded;
#[path = "core_parity/spec.rs"]
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mlx_core::io::load_safetensors;
use mlx_core::{Dtype, Result};
use serde_json::{Map, Value};

use self::recorded::Recorded;
use crate::calls::{NAMES, call};

/// Where ours answers otherwise, for which ops, and why. A line that explains nothing fails.
const EXPLAINED: &[(&str, Difference, &str)] = &[
    (
        "linalg::det",
        Difference::OursFails,
        "decompositions ask for floating point; Python casts integers for this one",
    ),
    (
        "linalg::slogdet",
        Difference::OursFails,
        "decompositions ask for floating point; Python casts integers for this one",
    ),
    (
        "fast::scaled_dot_product_attention_fused",
        Difference::OursAnswers,
        "MLX has no fused attention for the CPU; here there is one",
    ),
    (
        "linalg_basic::gather_mm",
        Difference::OursAnswers,
        "MLX multiplies in f32 only on the CPU; here in half precision too",
    ),
    ("misc::bartlett", Difference::OursFails, NEGATIVE),
    ("misc::blackman", Difference::OursFails, NEGATIVE),
    ("misc::hamming", Difference::OursFails, NEGATIVE),
    ("misc::hanning", Difference::OursFails, NEGATIVE),
    (
        "shape::pad",
        Difference::OursFails,
        "one pair of widths for all axes is a convenience of Python's; here each axis has its own",
    ),
];

const NEGATIVE: &str = "a window of a negative length is an error, not an empty window";

/// Ops without recorded calls, and why.
const UNRECORDED: &[(&str, &str)] = &[
    ("array::nonzero", "Python's MLX has none"),
    ("fast::gelu", "part of Python's layers"),
    ("fast::gelu_approx", "part of Python's layers"),
    ("fast::gelu_fast_approx", "part of Python's layers"),
    ("fast::silu", "part of Python's layers"),
    ("fast::swiglu", "Python's MLX has none"),
    ("indexing::checked_indices", "ours alone"),
    ("misc::number_of_elements", "not in Python"),
    ("quantized::gather_qqmm", "MLX computes it on GPUs only"),
    ("random::bits", "not in Python"),
    (
        "random::seed",
        "gives nothing; the calls without a key follow it",
    ),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Difference {
    /// We refuse what Python computes.
    OursFails,
    /// We compute what Python refuses.
    OursAnswers,
    /// Both compute, and the values differ.
    Values,
}

/// The largest difference allowed, divided by the largest value of the answer. The same library
/// computes most of both sides; matrix products and a few functions are ours.
fn tolerance(op: &str, dtype: Dtype) -> f64 {
    let family = op.split("::").next().unwrap_or_default();
    let ours = matches!(
        op,
        "arithmetic::exp" | "arithmetic::erf" | "arithmetic::tanh" | "arithmetic::sigmoid"
    ) || op.starts_with("reduction::softmax")
        || op == "random::multivariate_normal";
    if !ours
        && !matches!(
            family,
            "linalg_basic" | "linalg" | "quantized" | "conv" | "fast"
        )
    {
        return 0.0;
    }
    match dtype {
        Dtype::Float16 => 4e-3,
        Dtype::Bfloat16 => 3e-2,
        Dtype::Float32 | Dtype::Complex64 => 2e-5,
        Dtype::Float64 => 1e-10,
        _ => 0.0,
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn every_op_answers_as_python_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/core/ops");
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let golden = load_safetensors(folder.join("golden.safetensors"))
        .unwrap()
        .0;
    let answers = golden["answers"].to_vec::<u8>().unwrap();
    let mut rest = answers.as_slice();
    let mut unexplained: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let (mut failed, mut explained) = (0, 0);
    for case in &cases {
        let op = case["op"].as_str().unwrap();
        let (family, name) = op.split_once("::").unwrap();
        seen.insert(op.to_owned());
        let expected = expected(case, &mut rest);
        let found = replay(family, name, case["args"].as_object().unwrap());
        if let Err((difference, message)) = compare(op, &found, &expected) {
            let reason = EXPLAINED
                .iter()
                .position(|(prefix, kind, _)| op.starts_with(prefix) && *kind == difference);
            match reason {
                Some(line) => {
                    explained += 1;
                    used.insert(line);
                }
                None => unexplained
                    .entry(format!("{op} {difference:?}"))
                    .or_default()
                    .push(format!("{}: {message}", case["args"])),
            }
        } else {
            failed += usize::from(expected.is_none());
        }
    }
    println!(
        "{} calls of {} ops: {} as Python's, {failed} refused as there, {explained} explained",
        cases.len(),
        seen.len(),
        cases.len() - failed - explained - unexplained.values().map(Vec::len).sum::<usize>(),
    );
    assert!(rest.is_empty(), "{} bytes of answers left", rest.len());
    let text: Vec<String> = unexplained
        .iter()
        .map(|(op, list)| format!("{op} ({} calls), such as {}", list.len(), list[0]))
        .collect();
    assert!(text.is_empty(), "unexplained:\n{}", text.join("\n"));
    let idle: Vec<_> = (0..EXPLAINED.len())
        .filter(|line| !used.contains(line))
        .map(|line| EXPLAINED[line])
        .collect();
    assert!(idle.is_empty(), "explain nothing: {idle:?}");
    let silent: Vec<String> = NAMES
        .iter()
        .map(|(family, name)| format!("{family}::{name}"))
        .filter(|op| !seen.contains(op) && !UNRECORDED.iter().any(|(known, _)| known == op))
        .collect();
    assert!(silent.is_empty(), "no recorded calls: {silent:?}");
}

type Answer = (Dtype, Vec<i32>, Vec<u8>);

/// Python's answers to a call, or none if it raised.
fn expected(case: &Value, rest: &mut &[u8]) -> Option<Vec<Answer>> {
    let parts = case.get("out")?.as_array().unwrap();
    let answer = |part: &Value| {
        let (name, dims) = part.as_str().unwrap().split_once(':').unwrap();
        let dtype = spec::dtype(name);
        let shape = spec::dims(dims);
        let count: usize = shape
            .iter()
            .map(|&dim| usize::try_from(dim).unwrap())
            .product();
        let (bytes, later) = rest.split_at(count * dtype.size());
        *rest = later;
        (dtype, shape, bytes.to_vec())
    };
    Some(parts.iter().map(answer).collect())
}

fn replay(family: &str, name: &str, args: &Map<String, Value>) -> Result<Vec<Answer>> {
    let mut recorded = Recorded::new(args)?;
    call(family, name, &mut recorded)?
        .iter()
        .map(|array| Ok((array.dtype(), array.shape().to_vec(), array.to_bytes()?)))
        .collect()
}

fn compare(
    op: &str,
    found: &Result<Vec<Answer>>,
    expected: &Option<Vec<Answer>>,
) -> std::result::Result<(), (Difference, String)> {
    let (found, expected) = match (found, expected) {
        (Err(_), None) => return Ok(()),
        (Err(error), Some(_)) => return Err((Difference::OursFails, error.to_string())),
        (Ok(_), None) => return Err((Difference::OursAnswers, String::new())),
        (Ok(found), Some(expected)) => (found, expected),
    };
    let values = |text: String| Err((Difference::Values, text));
    if found.len() != expected.len() {
        return values(format!("{} results, not {}", found.len(), expected.len()));
    }
    for ((dtype, shape, bytes), (wanted, dims, right)) in found.iter().zip(expected) {
        if dtype != wanted || shape != dims {
            return values(format!("{dtype}{shape:?}, not {wanted}{dims:?}"));
        }
        let (ours, theirs) = (spec::numbers(*dtype, bytes), spec::numbers(*dtype, right));
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        let finite = theirs.iter().filter(|v| v.is_finite());
        let largest = finite.fold(0.0f64, |most, v| most.max(v.abs()));
        let room = tolerance(op, *dtype) * largest;
        let apart = ours
            .iter()
            .zip(&theirs)
            .find(|&(&a, &b)| !same(a, b) && ((a - b).abs() > room || (a - b).is_nan()));
        if let Some((a, b)) = apart {
            return values(format!("{a:?}, not {b:?}, in {dtype}{shape:?}"));
        }
    }
    Ok(())
}
