//! Reads `ops.table`; the file's own header describes the format.

use anyhow::{Context, Result, bail};

/// One line of the table.
#[derive(Debug, PartialEq)]
pub struct Op {
    pub name: String,
    pub params: Vec<Param>,
    pub result: Returns,
    /// The C++ call.
    pub expression: String,
    /// MLX has no GPU kernel: the op runs on the CPU wherever the arrays are.
    pub cpu: bool,
}

#[derive(Debug, PartialEq)]
pub struct Param {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Array,
    OptArray,
    Arrays,
    Axes,
    OptAxes,
    Shape,
    Strides,
    Int,
    OptInt,
    U64,
    F32,
    OptF32,
    F64,
    Bool,
    OptBool,
    Dtype,
    OptDtype,
    Str,
    FftNorm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Returns {
    Array,
    Arrays,
    Pair,
}

pub fn parse(text: &str) -> Result<Vec<Op>> {
    let mut ops: Vec<Op> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let op = parse_line(line).with_context(|| format!("ops.table line {}", number + 1))?;
        if ops.iter().any(|other| other.name == op.name) {
            bail!(
                "ops.table line {}: `{}` is listed twice",
                number + 1,
                op.name
            );
        }
        ops.push(op);
    }
    Ok(ops)
}

fn parse_line(line: &str) -> Result<Op> {
    let (line, cpu) = match line.strip_suffix("@cpu") {
        Some(rest) => (rest.trim_end(), true),
        None => (line, false),
    };
    let (signature, expression) = match line.split_once(" = ") {
        Some((signature, expression)) => (signature, Some(expression.trim())),
        None => (line, None),
    };
    let (call, result) = signature.rsplit_once("->").context("no `-> result`")?;
    let result = match result.trim() {
        "array" => Returns::Array,
        "arrays" => Returns::Arrays,
        "pair" => Returns::Pair,
        other => bail!("unknown result `{other}`"),
    };
    let (name, rest) = call.split_once('(').context("no parameter list")?;
    let list = rest
        .trim()
        .strip_suffix(')')
        .context("no closing parenthesis")?;
    let params = list
        .split(',')
        .map(str::trim)
        .filter(|param| !param.is_empty())
        .map(|param| {
            let (name, kind) = param.split_once(':').context("a parameter needs a type")?;
            Ok(Param {
                name: name.trim().to_owned(),
                kind: parse_kind(kind.trim())?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let name = name.trim().to_owned();
    let expression = expression.map_or_else(
        || {
            let mut arguments: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
            arguments.push("s");
            format!("mx::{name}({})", arguments.join(", "))
        },
        str::to_owned,
    );
    Ok(Op {
        name,
        params,
        result,
        expression,
        cpu,
    })
}

fn parse_kind(text: &str) -> Result<Kind> {
    Ok(match text {
        "array" => Kind::Array,
        "array?" => Kind::OptArray,
        "arrays" => Kind::Arrays,
        "axes" => Kind::Axes,
        "axes?" => Kind::OptAxes,
        "shape" => Kind::Shape,
        "strides" => Kind::Strides,
        "int" => Kind::Int,
        "int?" => Kind::OptInt,
        "u64" => Kind::U64,
        "f32" => Kind::F32,
        "f32?" => Kind::OptF32,
        "f64" => Kind::F64,
        "bool" => Kind::Bool,
        "bool?" => Kind::OptBool,
        "dtype" => Kind::Dtype,
        "dtype?" => Kind::OptDtype,
        "str" => Kind::Str,
        "fftnorm" => Kind::FftNorm,
        other => bail!("unknown type `{other}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_expression_passes_parameters_in_order_then_the_stream() {
        let ops = parse("add(a: array, b: array) -> array").unwrap();
        assert_eq!(ops[0].expression, "mx::add(a, b, s)");
    }

    #[test]
    fn expression_and_placement_are_read() {
        let ops = parse("inv(a: array) -> array = mx::linalg::inv(a, s) @cpu").unwrap();
        assert!(ops[0].cpu);
        assert_eq!(ops[0].expression, "mx::linalg::inv(a, s)");
    }

    #[test]
    fn mistakes_name_their_line() {
        for text in [
            "\nadd(a: array)",
            "\nadd(a: thing) -> array",
            "\nadd(a) -> array",
        ] {
            assert!(
                parse(text).unwrap_err().to_string().contains("line 2"),
                "{text}"
            );
        }
        let twice = "a(x: array) -> array\na(x: array) -> array";
        assert!(parse(twice).unwrap_err().to_string().contains("twice"));
    }
}
