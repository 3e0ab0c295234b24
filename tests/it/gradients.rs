//! The gradient of every op against Python's MLX and against finite differences.
//!
//! `cargo xtask parity core` writes the calls and Python's gradients; this replays them through
//! the safe API. The value is the sum of an op's results, each times fixed weights, so that its
//! gradient depends on all of them.
//!
//! Differences are taken in float64 where the op computes in it, else in float32 with long steps.
//! A point is left out where the value is not finite beside it, or where it has a kink there: the
//! two one-sided differences then differ. Ops with kinks are listed with their reason.

#[allow(
    clippy::cast_possible_truncation,
    reason = "descriptions hold small numbers"
)]
#[path = "../../crates/mlx-core/tests/it/core_parity/recorded.rs"]
mod recorded;
#[allow(clippy::cast_possible_truncation, reason = "as above")]
#[path = "../../crates/mlx-core/tests/it/core_parity/spec.rs"]
mod spec;
#[path = "gradients/tables.rs"]
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use mlx_core::{Array, Dtype, DtypeCategory, Error, Result};
use mlx_transforms::{jvp, value_and_grad, vmap};
use serde_json::{Map, Value};

use self::recorded::Recorded;
use self::tables::{CONSTANT, EXPLAINED, KINKS, NO_DERIVATIVE};
use crate::calls::{NAMES, call};
use crate::support::{arrays, fixture, json};

type Arguments = Map<String, Value>;

/// What a call's gradient is in Python.
enum Python {
    Gradients(Vec<Vec<f64>>),
    Raises,
    /// There is no such op, or its process ends.
    Unknown,
}

struct Case {
    op: String,
    args: Arguments,
    wrt: Vec<String>,
    python: Python,
}

impl Case {
    fn text(&self) -> String {
        format!("{} {}", self.op, Value::Object(self.args.clone()))
    }

    fn primals(&self) -> Result<Vec<Array>> {
        let call = Recorded::new(&self.args)?;
        self.wrt.iter().map(|name| call.at(name)).collect()
    }
}

fn cases() -> Vec<Case> {
    let folder = fixture("core/gradients");
    let bytes = arrays(folder.join("golden.safetensors"))["answers"]
        .to_vec::<u8>()
        .unwrap();
    let mut rest = bytes.as_slice();
    let mut cases = Vec::new();
    for line in json(folder.join("cases.json")).as_array().unwrap() {
        let names = line["wrt"].as_array().unwrap().iter();
        let mut case = Case {
            op: line["op"].as_str().unwrap().to_owned(),
            args: line["args"].as_object().unwrap().clone(),
            wrt: names
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
            python: Python::Unknown,
        };
        if line["raises"].is_string() {
            case.python = Python::Raises;
        } else if line["python"] != false {
            let read = |primal: &Array| {
                let (dtype, size) = (primal.dtype(), primal.size());
                let (bytes, later) = rest.split_at(size * dtype.size());
                rest = later;
                spec::numbers(dtype, bytes)
            };
            case.python = Python::Gradients(case.primals().unwrap().iter().map(read).collect());
        }
        cases.push(case);
    }
    assert!(rest.is_empty(), "{} bytes of gradients left", rest.len());
    cases
}

/// The results of a call with other arrays as its arguments `names`.
fn results(op: &str, args: &Arguments, names: &[String], given: &[Array]) -> Result<Vec<Array>> {
    let mut recorded = Recorded::new(args)?;
    for (name, array) in names.iter().zip(given) {
        recorded.replace(name, array.clone());
    }
    let (family, name) = op.split_once("::").unwrap();
    call(family, name, &mut recorded)
}

/// The number whose gradient is taken: float64 if every result is, else float32.
fn weighted(results: &[Array]) -> Result<Array> {
    let floats = || {
        results
            .iter()
            .filter(|array| array.dtype().is_subtype(DtypeCategory::Inexact))
    };
    let wide = floats().all(|array| array.dtype() == Dtype::Float64);
    let dtype = if wide { Dtype::Float64 } else { Dtype::Float32 };
    let mut total = Array::scalar_dtype(0.0, dtype)?;
    for (i, result) in results.iter().enumerate() {
        if !result.dtype().is_subtype(DtypeCategory::Inexact) {
            continue;
        }
        let parts = if result.dtype() == Dtype::Complex64 {
            vec![result.real()?, result.imag()?]
        } else {
            vec![result.clone()]
        };
        for (j, part) in parts.into_iter().enumerate() {
            let dims: Vec<String> = part.shape().iter().map(i32::to_string).collect();
            let weights = spec::make(&format!("f32:{}:unit:{}", dims.join("x"), 11 + 2 * i + j))?;
            let term = (part.astype(dtype)? * weights.astype(dtype)?)?.sum(false)?;
            total = (total + term)?;
        }
    }
    Ok(total)
}

fn gradients(case: &Case) -> Result<Vec<Vec<f64>>> {
    let (op, args, names) = (case.op.clone(), case.args.clone(), case.wrt.clone());
    let f = move |given: &[Array]| Ok(vec![weighted(&results(&op, &args, &names, given)?)?]);
    let every: Vec<i32> = (0..i32::try_from(case.wrt.len()).unwrap()).collect();
    let found = value_and_grad(f, &every)?(&case.primals()?)?.1;
    found.iter().map(numbers).collect()
}

fn numbers(array: &Array) -> Result<Vec<f64>> {
    Ok(spec::numbers(array.dtype(), &array.to_bytes()?))
}

/// One line for each kind of trouble, with the first call that has it.
#[derive(Default)]
struct Report {
    unexplained: BTreeMap<String, Vec<String>>,
    used: BTreeSet<String>,
}

impl Report {
    fn add(
        &mut self,
        table: &'static [(&str, &str)],
        op: &str,
        kind: &str,
        text: impl FnOnce() -> String,
    ) {
        if table.iter().any(|(known, _)| *known == op) {
            self.used.insert(format!("{kind} {op}"));
            return;
        }
        let list = self.unexplained.entry(format!("{op} {kind}")).or_default();
        list.push(text());
    }

    /// Fails if something is unexplained, or a line explains nothing.
    fn close(self, tables: &[(&'static [(&str, &str)], &str)]) {
        let lines: Vec<String> = self
            .unexplained
            .iter()
            .map(|(kind, list)| format!("{kind} ({} times), such as {}", list.len(), list[0]))
            .collect();
        assert!(lines.is_empty(), "unexplained:\n{}", lines.join("\n"));
        for (table, kind) in tables {
            for (op, _) in *table {
                assert!(
                    self.used.contains(&format!("{kind} {op}")),
                    "{op}: nothing to explain ({kind})"
                );
            }
        }
    }
}

#[test]
fn every_gradient_is_pythons_and_the_derivative() {
    let mut report = Report::default();
    let mut points = Points::default();
    let cases = cases();
    let (mut compared, mut refused) = (0, 0);
    for case in &cases {
        let ours = gradients(case);
        match (&case.python, &ours) {
            (Python::Raises, Err(_)) => refused += 1,
            (Python::Raises, Ok(_)) => {
                report.add(EXPLAINED, &case.op, "Python", || {
                    format!("{}: Python raises", case.text())
                });
            }
            (_, Err(error)) => {
                report.add(EXPLAINED, &case.op, "Python", || {
                    format!("{}: {error}", case.text())
                });
            }
            (Python::Gradients(theirs), Ok(ours)) => {
                compared += 1;
                if let Some(text) = apart(ours, theirs) {
                    report.add(EXPLAINED, &case.op, "Python", || {
                        format!("{}: {text}", case.text())
                    });
                }
            }
            (Python::Unknown, Ok(_)) => {}
        }
        if let Ok(ours) = &ours {
            differences(case, ours, &mut report, &mut points);
        }
    }
    let ops: BTreeSet<&str> = cases.iter().map(|case| case.op.as_str()).collect();
    println!(
        "{} calls of {} ops: {compared} as Python's, {refused} refused as there; {} derivatives by \
         differences ({} in float64), {} points with kinks, {} beside values that are not finite, \
         {} complex inputs left to Python",
        cases.len(),
        ops.len(),
        points.checked,
        points.fine,
        points.kinks,
        points.infinite,
        points.complex,
    );
    report.close(&[
        (EXPLAINED, "Python"),
        (NO_DERIVATIVE, "differences"),
        (KINKS, "kink"),
    ]);
}

/// The first element that differs by more than rounding.
fn apart(ours: &[Vec<f64>], theirs: &[Vec<f64>]) -> Option<String> {
    for (place, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        if ours.len() != theirs.len() {
            return Some(format!("{} elements, not {}", ours.len(), theirs.len()));
        }
        let largest = theirs
            .iter()
            .filter(|v| v.is_finite())
            .fold(0.0f64, |most, v| most.max(v.abs()));
        let same = |a: f64, b: f64| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-5 * largest
        };
        if let Some((a, b)) = ours.iter().zip(theirs).find(|&(&a, &b)| !same(a, b)) {
            return Some(format!("{a}, not {b}, for input {place}"));
        }
    }
    None
}

#[derive(Default)]
struct Points {
    checked: usize,
    fine: usize,
    kinks: usize,
    infinite: usize,
    complex: usize,
}

/// How differences are taken: steps, and what they may be off, relative and for each unit of the
/// value.
struct Precision {
    dtype: Dtype,
    steps: &'static [Step],
}

struct Step {
    size: f64,
    room: f64,
    rounding: f64,
    /// How much of the slope two one-sided differences of a smooth function may differ by.
    bend: f64,
}

const fn fine(size: f64) -> Step {
    Step {
        size,
        room: 1e-3,
        rounding: 1e-9,
        bend: 2e-3,
    }
}

const fn coarse(size: f64) -> Step {
    Step {
        size,
        room: 2e-2,
        rounding: 1e-4,
        bend: 0.3,
    }
}

/// Some kernels take float64 and compute in float32 inside, so long steps come last.
const FINE: Precision = Precision {
    dtype: Dtype::Float64,
    steps: &[fine(1e-5), fine(1e-3), coarse(1.0 / 64.0)],
};
const COARSE: Precision = Precision {
    dtype: Dtype::Float32,
    steps: &[coarse(1.0 / 64.0), coarse(1.0 / 16.0)],
};

/// The value as a function of numbers.
struct Value64<'a> {
    case: &'a Case,
    shapes: Vec<Vec<i32>>,
    precision: &'static Precision,
}

impl Value64<'_> {
    fn at(&self, values: &[Vec<f64>]) -> Result<(f64, Dtype)> {
        let array = |(values, shape): (&Vec<f64>, &Vec<i32>)| {
            Array::from_slice(values, shape)?.astype(self.precision.dtype)
        };
        let given: Vec<Array> = values
            .iter()
            .zip(&self.shapes)
            .map(array)
            .collect::<Result<_>>()?;
        let total = weighted(&results(
            &self.case.op,
            &self.case.args,
            &self.case.wrt,
            &given,
        )?)?;
        let number = total.astype(Dtype::Float64)?.item::<f64>()?;
        Ok((number, total.dtype()))
    }
}

/// Compares each partial derivative with central differences.
fn differences(case: &Case, ours: &[Vec<f64>], report: &mut Report, points: &mut Points) {
    let primals = case.primals().unwrap();
    if primals
        .iter()
        .any(|primal| primal.dtype() == Dtype::Complex64)
    {
        points.complex += primals.len();
        return;
    }
    let mut values: Vec<Vec<f64>> = primals
        .iter()
        .map(|primal| numbers(primal).unwrap())
        .collect();
    let mut value = Value64 {
        case,
        shapes: primals
            .iter()
            .map(|primal| primal.shape().to_vec())
            .collect(),
        precision: &FINE,
    };
    let middle = match value.at(&values) {
        Ok((middle, Dtype::Float64)) => middle,
        _ => {
            value.precision = &COARSE;
            value.at(&values).unwrap().0
        }
    };
    for (input, slopes) in ours.iter().enumerate() {
        let largest = slopes
            .iter()
            .filter(|v| v.is_finite())
            .fold(0.0f64, |most, v| most.max(v.abs()));
        for (place, &slope) in slopes.iter().enumerate() {
            let point = Point {
                input,
                place,
                slope,
                largest,
                middle,
            };
            match point.check(&value, &mut values) {
                Outcome::Agrees => {
                    points.checked += 1;
                    points.fine += usize::from(value.precision.dtype == Dtype::Float64);
                }
                Outcome::Infinite => points.infinite += 1,
                Outcome::Kink => {
                    points.kinks += 1;
                    report.add(KINKS, &case.op, "kink", || {
                        format!("{}: {} of {input}", case.text(), values[input][place])
                    });
                }
                Outcome::Differs(found) => {
                    report.add(NO_DERIVATIVE, &case.op, "differences", || {
                        format!(
                            "{}: {slope}, not {found}, at {} of {}",
                            case.text(),
                            values[input][place],
                            case.wrt[input]
                        )
                    });
                }
            }
        }
    }
}

enum Outcome {
    Agrees,
    Infinite,
    Kink,
    Differs(f64),
}

struct Point {
    input: usize,
    place: usize,
    slope: f64,
    largest: f64,
    middle: f64,
}

impl Point {
    fn check(&self, value: &Value64<'_>, values: &mut [Vec<f64>]) -> Outcome {
        let precision = value.precision;
        let start = values[self.input][self.place];
        let mut beside = |offset: f64| {
            values[self.input][self.place] = start + offset;
            let found = value.at(values).map_or(f64::NAN, |(number, _)| number);
            values[self.input][self.place] = start;
            found
        };
        let mut last = Outcome::Infinite;
        for step in precision.steps {
            let (above, below) = (beside(step.size), beside(-step.size));
            let up = (above - self.middle) / step.size;
            let down = (self.middle - below) / step.size;
            if !up.is_finite() || !down.is_finite() {
                return last;
            }
            let central = (above - below) / (2.0 * step.size);
            let room = step.room * (self.largest + central.abs())
                + step.rounding * (1.0 + self.middle.abs());
            if (central - self.slope).abs() <= room {
                return Outcome::Agrees;
            }
            if matches!(last, Outcome::Infinite) {
                let bend = step.bend * (up.abs() + down.abs() + 1.0);
                last = if (up - down).abs() > bend {
                    Outcome::Kink
                } else {
                    Outcome::Differs(central)
                };
            }
        }
        last
    }
}

/// Every array among a call's arguments, whatever its dtype.
fn every_array(case: &Case) -> Vec<String> {
    let described = |value: &Value| value.as_str().is_some_and(|text| text.starts_with('@'));
    let mut names = Vec::new();
    for (name, value) in &case.args {
        if name == "index" {
            continue;
        }
        if described(value) {
            names.push(name.clone());
        }
        for (place, part) in value.as_array().into_iter().flatten().enumerate() {
            if described(part) {
                names.push(format!("{name}.{place}"));
            }
        }
    }
    names
}

/// MLX has transforms that index past what they have. Errors are fine; the process must live.
#[test]
fn transforms_of_every_op_and_argument_never_crash() {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for mut case in cases() {
        case.wrt = every_array(&case);
        let primals = case.primals().unwrap();
        let call = || {
            let (op, args, names) = (case.op.clone(), case.args.clone(), case.wrt.clone());
            move |given: &[Array]| results(&op, &args, &names, given)
        };
        let mut note = |what, outcome: Result<Vec<Array>>| {
            let done = outcome.and_then(|arrays| {
                arrays
                    .iter()
                    .try_for_each(|array| array.to_bytes().map(drop))
            });
            counts.entry(what).or_default()[usize::from(done.is_err())] += 1;
        };
        for place in 0..primals.len() {
            let alone = Case {
                op: case.op.clone(),
                args: case.args.clone(),
                wrt: vec![case.wrt[place].clone()],
                python: Python::Unknown,
            };
            let outcome = gradients(&alone).map(|_| Vec::new());
            note("gradient", outcome);
            let ones = Array::ones_dtype(primals[place].shape(), primals[place].dtype());
            let f = call();
            let (whole, input) = (primals.clone(), primals[place].clone());
            let one = move |given: &[Array]| {
                let mut all = whole.clone();
                all[place] = given[0].clone();
                f(&all)
            };
            note(
                "jvp",
                ones.and_then(|ones| jvp(one, &[input], &[ones]))
                    .map(|(_, products)| products),
            );
            let mut axes = vec![None; primals.len()];
            axes[place] = Some(0);
            note("vmap", mapped(call(), &primals, &axes));
        }
        note(
            "vmap",
            mapped(call(), &primals, &vec![Some(0); primals.len()]),
        );
    }
    println!("[succeeded, refused]: {counts:?}");
    for (what, [succeeded, _]) in counts {
        assert!(succeeded > 500, "{what}: only {succeeded} succeeded");
    }
}

/// The call on pairs of the arrays that have an axis.
fn mapped(
    f: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    primals: &[Array],
    axes: &[Option<i32>],
) -> Result<Vec<Array>> {
    let stacked = |(array, axis): (&Array, &Option<i32>)| match axis {
        Some(_) => mlx_core::ops::shape::stack(&[array, array], 0),
        None => Ok(array.clone()),
    };
    let inputs: Vec<Array> = primals
        .iter()
        .zip(axes)
        .map(stacked)
        .collect::<Result<_>>()?;
    let count = f(primals)?.len();
    if count == 0 {
        return Err(Error::Unsupported("no results".to_owned()));
    }
    vmap(f, axes, &vec![Some(0); count])?(&inputs)
}

/// Every op has recorded gradients, or nothing to differentiate.
#[test]
fn ops_without_gradients_are_known() {
    let recorded: BTreeSet<String> = cases().into_iter().map(|case| case.op).collect();
    let silent: Vec<String> = NAMES
        .iter()
        .map(|(family, name)| format!("{family}::{name}"))
        .filter(|op| !recorded.contains(op) && !CONSTANT.contains(&op.as_str()))
        .collect();
    assert!(silent.is_empty(), "no recorded gradients: {silent:?}");
    let wrong: Vec<_> = CONSTANT
        .iter()
        .filter(|op| recorded.contains(**op))
        .collect();
    assert!(wrong.is_empty(), "have recorded gradients: {wrong:?}");
}
