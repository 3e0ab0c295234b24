//! Python's methods of strings and mappings.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::python;

/// Called for every method that minijinja does not know itself.
pub(super) fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Map => map_method(value, name, args)?,
        _ => None,
    };
    match found {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn map_method(map: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        map.try_iter()?
            .map(|key| Ok((key.clone(), map.get_item(&key)?)))
            .collect()
    };
    Ok(Some(match name {
        "keys" => {
            let () = from_args(args)?;
            Value::from(pairs()?.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
        }
        "values" => {
            let () = from_args(args)?;
            Value::from(
                pairs()?
                    .into_iter()
                    .map(|(_, value)| value)
                    .collect::<Vec<_>>(),
            )
        }
        "items" => {
            let () = from_args(args)?;
            let items = pairs()?
                .into_iter()
                .map(|(key, value)| Value::from(vec![key, value]));
            Value::from(items.collect::<Vec<_>>())
        }
        "copy" => {
            let () = from_args(args)?;
            map.clone()
        }
        _ => return Ok(None),
    }))
}

fn string_method(s: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let is = |test: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(!s.is_empty() && s.chars().all(test)))
    };
    // Strings of one case need at least one letter that has case.
    let cased = |wrong: fn(char) -> bool, right: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(s.chars().any(right) && !s.chars().any(wrong)))
    };
    let map = |convert: &dyn Fn(&str) -> String| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(convert(s)))
    };
    Ok(Some(match name {
        "strip" => strip(s, args, true, true)?,
        "lstrip" => strip(s, args, true, false)?,
        "rstrip" => strip(s, args, false, true)?,
        "split" => split(s, args, false)?,
        "rsplit" => split(s, args, true)?,
        "splitlines" => split_lines(s, args)?,
        "partition" | "rpartition" => partition(s, args, name == "rpartition")?,
        "find" | "index" => find(s, args, name == "index", false)?,
        "rfind" | "rindex" => find(s, args, name == "rindex", true)?,
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(s.matches(what).count())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(s.strip_prefix(prefix).unwrap_or(s))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(s.strip_suffix(suffix).unwrap_or(s))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let items: Vec<String> = items.try_iter()?.map(|item| python::str(&item)).collect();
            Value::from(items.join(s))
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            zfill(s, width)?
        }
        "ljust" | "rjust" | "center" => justify(s, name, args)?,
        "lower" | "casefold" => map(&str::to_lowercase)?,
        "upper" => map(&str::to_uppercase)?,
        "title" => map(&title)?,
        "capitalize" => map(&capitalize)?,
        "swapcase" => map(&swap_case)?,
        "isspace" => is(is_space)?,
        "isalpha" => is(char::is_alphabetic)?,
        "isalnum" => is(char::is_alphanumeric)?,
        "isdigit" | "isnumeric" | "isdecimal" => is(char::is_numeric)?,
        "isascii" => {
            let () = from_args(args)?;
            Value::from(s.is_ascii())
        }
        "islower" => cased(char::is_uppercase, char::is_lowercase)?,
        "isupper" => cased(char::is_lowercase, char::is_uppercase)?,
        _ => return Ok(None),
    }))
}

/// Whitespace in Python's sense, which has four control characters more than Unicode's.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1C}'..='\u{1F}')
}

fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `str.strip` without arguments, and the `trim` filter.
pub(super) fn trim(s: &str) -> &str {
    s.trim_matches(is_space)
}

fn strip(s: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (set,): (Option<&str>,) = from_args(args)?;
    let strips =
        |character: char| set.map_or_else(|| is_space(character), |set| set.contains(character));
    let mut s = s;
    if start {
        s = s.trim_start_matches(strips);
    }
    if end {
        s = s.trim_end_matches(strips);
    }
    Ok(Value::from(s))
}

fn split(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit = limit.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let parts = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let found: Vec<&str> = match separator {
        Some("") => return Err(error("empty separator")),
        Some(separator) if from_right => {
            let mut found: Vec<&str> = s.rsplitn(parts, separator).collect();
            found.reverse();
            found
        }
        Some(separator) => s.splitn(parts, separator).collect(),
        None => split_space(s, parts, from_right),
    };
    Ok(list(found))
}

fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    Value::from(items.into_iter().map(Value::from).collect::<Vec<_>>())
}

/// Splits at runs of whitespace, at most into `parts`.
fn split_space(s: &str, parts: usize, from_right: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = trim_side(s, from_right);
    while !rest.is_empty() {
        let cut = if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(cut) = cut.filter(|_| found.len() + 1 < parts) else {
            found.push(rest);
            break;
        };
        let (left, right) = rest.split_at(cut);
        if from_right {
            found.push(right.trim_start_matches(is_space));
            rest = trim_side(left, from_right);
        } else {
            found.push(left);
            rest = trim_side(right, from_right);
        }
    }
    if from_right {
        found.reverse();
    }
    found
}

fn trim_side(s: &str, right: bool) -> &str {
    if right {
        s.trim_end_matches(is_space)
    } else {
        s.trim_start_matches(is_space)
    }
}

fn split_lines(s: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let found = lines(s).map(|(line, end)| {
        if keep {
            format!("{line}{end}")
        } else {
            line.to_owned()
        }
    });
    Ok(Value::from(found.collect::<Vec<_>>()))
}

/// Lines with their ends, which are more than Unix knows.
pub(super) fn lines(s: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = s;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, tail) = rest.split_at(rest.find(is_line_end).unwrap_or(rest.len()));
        let width = if tail.starts_with("\r\n") {
            2
        } else {
            tail.chars().next().map_or(0, char::len_utf8)
        };
        let (end, next) = tail.split_at(width);
        rest = next;
        Some((line, end))
    })
}

fn is_line_end(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn partition(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(error("empty separator"));
    }
    let parts = if from_right {
        s.rsplit_once(separator)
    } else {
        s.split_once(separator)
    };
    Ok(list(match parts {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", s],
        None => [s, "", ""],
    }))
}

/// Positions count characters.
fn find(s: &str, args: &[Value], must_exist: bool, from_right: bool) -> Result<Value, Error> {
    let (what, start): (&str, Option<usize>) = from_args(args)?;
    let start = start.unwrap_or(0);
    let skipped = s.char_indices().nth(start).map_or(s.len(), |(at, _)| at);
    let (before, rest) = s.split_at(skipped);
    let found = if from_right {
        rest.rfind(what)
    } else {
        rest.find(what)
    };
    match found.and_then(|at| rest.get(..at)) {
        Some(between) => Ok(Value::from(
            before.chars().count() + between.chars().count(),
        )),
        None if must_exist => Err(error("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

/// Templates come from strangers: a width cannot ask for more memory than any real one needs.
const WIDEST: usize = 10_000;

/// The width, if it is a sane one.
pub(super) fn bounded(width: usize) -> Result<usize, Error> {
    if width > WIDEST {
        return Err(error(format!("width {width} is over {WIDEST}")));
    }
    Ok(width)
}

fn padding(s: &str, width: usize) -> Result<usize, Error> {
    Ok(bounded(width)?.saturating_sub(s.chars().count()))
}

fn zfill(s: &str, width: usize) -> Result<Value, Error> {
    let zeros = "0".repeat(padding(s, width)?);
    Ok(Value::from(match s.strip_prefix(['+', '-']) {
        Some(digits) => format!("{}{zeros}{digits}", s.get(..1).unwrap_or_default()),
        None => format!("{zeros}{s}"),
    }))
}

fn justify(s: &str, side: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(error("the fill must be one character"));
    }
    let total = padding(s, width)?;
    let left = match side {
        "ljust" => 0,
        "rjust" => total,
        // Python puts the odd one on the left if the width is odd.
        _ => total / 2 + (total & width & 1),
    };
    Ok(Value::from(format!(
        "{}{s}{}",
        fill.repeat(left),
        fill.repeat(total - left)
    )))
}

fn title(s: &str) -> String {
    let mut inside = false;
    s.chars()
        .flat_map(|character| {
            let lower = std::mem::replace(&mut inside, character.is_alphabetic());
            convert(character, !lower)
        })
        .collect()
}

/// Jinja's `title` filter: other than Python's method, only blanks, hyphens and brackets begin a word.
pub(super) fn title_words(s: &str) -> String {
    let mut inside = false;
    s.chars()
        .flat_map(|character| {
            let word = !(is_space(character) || "-({[<".contains(character));
            convert(character, !std::mem::replace(&mut inside, word))
        })
        .collect()
}

fn capitalize(s: &str) -> String {
    let mut characters = s.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first
        .chain(characters.as_str().to_lowercase().chars())
        .collect()
}

fn swap_case(s: &str) -> String {
    s.chars()
        .flat_map(|character| convert(character, character.is_lowercase()))
        .collect()
}

fn convert(character: char, upper: bool) -> Vec<char> {
    if upper {
        character.to_uppercase().collect()
    } else {
        character.to_lowercase().collect()
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    fn eval(expression: &str) -> String {
        let mut env = Environment::new();
        env.set_unknown_method_callback(super::method);
        let value = env
            .compile_expression(expression)
            .unwrap()
            .eval(())
            .unwrap();
        super::python::str(&value)
    }

    #[test]
    fn results_are_those_of_python() {
        for (expression, expected) in [
            (r"'  a b  '.strip()", "a b"),
            (r"'xxaxx'.lstrip('x')", "axx"),
            (r"' a  b c '.split()", "['a', 'b', 'c']"),
            (r"' a  b c '.split(maxsplit=1)", "['a', 'b c ']"),
            (r"' a  b c '.split(none, 0)", "['a  b c ']"),
            (r"' a  b c '.rsplit(none, 1)", "[' a  b', 'c']"),
            (r"' a '.split(none, 1)", "['a']"),
            (r"'a,b,,c'.split(',', 2)", "['a', 'b', ',c']"),
            (r"'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            (r"''.split(',')", "['']"),
            (r"'a\nb\r\nc\n'.splitlines()", "['a', 'b', 'c']"),
            (r"'a\nb'.splitlines(true)", r"['a\n', 'b']"),
            (r"'é=b=c'.partition('=')", "['é', '=', 'b=c']"),
            (r"'éab'.find('b')", "2"),
            (r"'éabb'.rfind('b')", "3"),
            (r"'a'.find('b')", "-1"),
            (r"'aaa'.count('')", "4"),
            (r"'<think>x'.removeprefix('<think>')", "x"),
            (r"'-7'.zfill(4)", "-007"),
            (r"'ab'.center(5, '*')", "**ab*"),
            (r"'abc'.center(6, '*')", "*abc**"),
            (r"'they\'re'.title()", "They'Re"),
            (r"'aBC dE'.capitalize()", "Abc de"),
            (r"''.isdigit()", "False"),
            (r"'A1'.isupper()", "True"),
            (r"','.join([1, 2.0, true])", "1,2.0,True"),
            (r"{'items': 1}.items()", "[['items', 1]]"),
            (r"{'a': 1}.get('b', 2)", "2"),
        ] {
            assert_eq!(eval(expression), expected, "{expression}");
        }
    }
}
