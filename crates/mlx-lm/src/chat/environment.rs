//! The Jinja environment that chat templates run in.

use std::fmt;
use std::time::SystemTime;

use jiff::Zoned;
use jiff::tz::TimeZone;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters,
};

use super::{json, python, strings};

/// An environment with the settings, functions, filters and tests of transformers.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    minijinja_contrib::add_to_environment(&mut env);
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(strings::method);
    env.set_formatter(|output, _, value| Ok(output.write_str(&python::str(value))?));

    env.add_function(
        "raise_exception",
        |message: Value| -> Result<Value, Error> {
            let message = python::str(&message);
            Err(Error::new(ErrorKind::InvalidOperation, message.clone())
                .with_source(Refusal(message)))
        },
    );
    env.add_filter(
        "tojson",
        |value: Value, ascii: Option<bool>, kwargs: Kwargs| json::tojson(&value, ascii, &kwargs),
    );
    env.add_filter("string", |value: Value| python::str(&value));
    env.add_filter("trim", |value: Value, set: Option<String>| {
        let text = python::str(&value);
        match set {
            Some(set) => text
                .trim_matches(|character| set.contains(character))
                .to_owned(),
            None => strings::trim(&text).to_owned(),
        }
    });

    env.add_filter("title", |value: Value| {
        strings::title_words(&python::str(&value))
    });
    env.add_filter(
        "indent",
        |value: Value,
         width: Option<Value>,
         first: Option<bool>,
         blank: Option<bool>,
         kwargs: Kwargs| { indent(&python::str(&value), width, (first, blank), &kwargs) },
    );
    env.add_filter(
        "int",
        |state: &State<'_, '_>, value: Value, default: Option<i64>| {
            filters::int(state, &value).unwrap_or_else(|_| Value::from(default.unwrap_or(0)))
        },
    );
    env.add_filter(
        "float",
        |state: &State<'_, '_>, value: Value, default: Option<f64>| {
            filters::float(state, &value).unwrap_or_else(|_| Value::from(default.unwrap_or(0.0)))
        },
    );

    env.add_test("sequence", |value: Value| has_items(&value));
    env.add_test("iterable", |value: Value| {
        has_items(&value) || value.kind() == ValueKind::Iterable
    });
    env.add_test("number", |value: Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    env.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
    env
}

/// Jinja's `indent`: knows Python's line ends and keeps the last one.
fn indent(
    text: &str,
    width: Option<Value>,
    (first, blank): (Option<bool>, Option<bool>),
    kwargs: &Kwargs,
) -> Result<String, Error> {
    let width = match width.or(kwargs.get("width")?) {
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(strings::bounded(usize::try_from(width)?)?),
        },
        None => " ".repeat(4),
    };
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let text = format!("{text}\n");
    let mut indented = String::with_capacity(text.len());
    for (index, line) in strings::lines(&text).map(|(line, _)| line).enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let prefixed = match index {
            0 => first,
            _ => blank || !line.is_empty(),
        };
        if prefixed {
            indented.push_str(&width);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// In Python, strings and mappings are sequences too, and what is undefined is an empty one.
fn has_items(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined
    )
}

/// `strftime_now(format)` at a fixed time, or at the clock's.
pub(super) fn strftime_now(now: Option<SystemTime>) -> Value {
    Value::from_function(
        move |format: &str, _rest: Rest<Value>| -> Result<String, Error> {
            let fail =
                |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
            let now = match now {
                Some(now) => jiff::Timestamp::try_from(now)
                    .map_err(fail)?
                    .to_zoned(TimeZone::system()),
                None => Zoned::now(),
            };
            jiff::fmt::strtime::format(format, &now).map_err(fail)
        },
    )
}

/// What a template gave to `raise_exception`; travels as the source of an error.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}
