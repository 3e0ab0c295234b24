//! The public names that C++ headers declare.
//!
//! A header is read as tokens, not as C++: enough to tell namespaces, functions, types and
//! constants apart in headers as regular as MLX's.

use std::collections::BTreeSet;

/// Names declared at namespace scope, such as `matmul`, `fft::rfft`, `operator+` or `Dtype`.
pub fn names(text: &str, outer: &str) -> BTreeSet<String> {
    let tokens = tokens(&without_comments(text));
    let mut names = BTreeSet::new();
    let mut scopes: Vec<String> = Vec::new();
    let mut statement: Vec<&str> = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        let token = tokens[position].as_str();
        position += 1;
        match token {
            "{" if statement.first() == Some(&"namespace") => {
                scopes.push(statement[1..].concat());
                statement.clear();
            }
            "{" => {
                let full = scopes.join("::");
                if let Some(name) = declared(&statement, &full, outer) {
                    names.insert(name);
                }
                position = after_braces(&tokens, position);
                statement.clear();
            }
            "}" => {
                scopes.pop();
                statement.clear();
            }
            ";" if parentheses(&statement) == 0 => {
                let full = scopes.join("::");
                if let Some(name) = declared(&statement, &full, outer) {
                    names.insert(name);
                }
                statement.clear();
            }
            // Braces inside parentheses are default arguments.
            "(" => {
                let end = after_parentheses(&tokens, position);
                statement.push("(");
                statement.push(")");
                position = end;
            }
            other => statement.push(other),
        }
    }
    names
}

fn parentheses(statement: &[&str]) -> i32 {
    statement.iter().fold(0, |depth, &token| match token {
        "(" => depth + 1,
        ")" => depth - 1,
        _ => depth,
    })
}

/// The name that a statement declares, relative to the namespace `outer`.
fn declared(statement: &[&str], scope: &str, outer: &str) -> Option<String> {
    let scope = scope.strip_prefix(outer)?.trim_start_matches("::");
    let rest = without_template(statement);
    let name = match *rest.first()? {
        "using" | "typedef" | "friend" | "extern" | "static_assert" => return None,
        "struct" | "class" => {
            // A forward declaration names nothing new; a base clause ends the name.
            let head = rest.split(|&token| token == ":").next()?;
            let name = head.iter().rev().find(|&&token| token != "final")?;
            (*name).to_owned()
        }
        "enum" => {
            let head = rest.split(|&token| token == ":").next()?;
            (*head.last()?).to_owned()
        }
        _ => function_or_constant(&rest)?,
    };
    Some(if scope.is_empty() {
        name
    } else {
        format!("{scope}::{name}")
    })
}

fn function_or_constant(statement: &[&str]) -> Option<String> {
    if let Some(operator) = statement.iter().position(|&token| token == "operator") {
        let end = statement[operator..]
            .iter()
            .position(|&token| token == "(")?
            + operator;
        return Some(statement[operator..end].concat());
    }
    let mut angles = 0;
    for (i, &token) in statement.iter().enumerate() {
        match token {
            "<" => angles += 1,
            ">" => angles -= 1,
            "(" if angles == 0 => return statement.get(i.checked_sub(1)?).map(|&t| t.to_owned()),
            "=" if angles == 0 => return statement.get(i.checked_sub(1)?).map(|&t| t.to_owned()),
            _ => {}
        }
    }
    // `inline constexpr Dtype float32{…}`: the braces ended the statement.
    statement
        .contains(&"constexpr")
        .then(|| statement.last().map(|&token| token.to_owned()))
        .flatten()
}

/// Without `template <…>` and the words that say nothing about the name.
fn without_template<'a>(statement: &[&'a str]) -> Vec<&'a str> {
    let mut rest = statement;
    while rest.first() == Some(&"template") {
        let mut angles = 0;
        let mut end = 1;
        for (i, &token) in rest.iter().enumerate().skip(1) {
            match token {
                "<" => angles += 1,
                ">" => angles -= 1,
                _ => {}
            }
            if angles == 0 {
                end = i + 1;
                break;
            }
        }
        rest = &rest[end..];
    }
    rest.iter()
        .copied()
        .filter(|token| !matches!(*token, "MLX_API" | "inline" | "static"))
        .collect()
}

fn after_braces(tokens: &[String], mut position: usize) -> usize {
    let mut depth = 1;
    while position < tokens.len() && depth > 0 {
        match tokens[position].as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        position += 1;
    }
    position
}

fn after_parentheses(tokens: &[String], mut position: usize) -> usize {
    let mut depth = 1;
    while position < tokens.len() && depth > 0 {
        match tokens[position].as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        position += 1;
    }
    position
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        rest = rest[start..].split_once("*/").map_or("", |(_, tail)| tail);
    }
    out.push_str(rest);
    let mut continued = false;
    out.lines()
        .map(|line| {
            let line = line.split_once("//").map_or(line, |(code, _)| code);
            let directive = continued || line.trim_start().starts_with('#');
            continued = directive && line.trim_end().ends_with('\\');
            if directive { "" } else { line }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Words, `::` and single signs. Texts in quotes vanish.
fn tokens(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(&next) = chars.peek() {
                if !next.is_alphanumeric() && next != '_' {
                    break;
                }
                word.push(next);
                chars.next();
            }
            out.push(word);
        } else if c == '"' {
            while let Some(inner) = chars.next() {
                match inner {
                    '\\' => {
                        chars.next();
                    }
                    '"' => break,
                    _ => {}
                }
            }
        } else if c == ':' && chars.peek() == Some(&':') {
            chars.next();
            out.push("::".to_owned());
        } else if !c.is_whitespace() {
            out.push(c.to_string());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        names(text, "a::b").into_iter().collect()
    }

    #[test]
    fn functions_types_operators_and_constants_are_found() {
        let text = r#"
            #define X(y) \
              void hidden(int);
            namespace a::b {
            class Forward;
            struct MLX_API Point : Base { int inner(); };
            enum class Mode { x, y };
            /* void comment(); */
            template <typename T, typename = std::enable_if_t<f<T>(0)>>
            array make(T x, Options o = {}, const char* s = "(;"); // void line();
            inline array operator<=(const array& a, int b) { return f(a, b); }
            MLX_API std::function<array(const array&)> grad(int n = 0);
            inline constexpr Dtype uint8{Dtype::Val::uint8, 1};
            inline constexpr Dtype::Category floating = Dtype::Category::floating;
            using Alias = int;
            namespace c { void deep(); }
            } // namespace a::b
            namespace other { void foreign(); }
        "#;
        assert_eq!(
            found(text),
            [
                "Forward",
                "Mode",
                "Point",
                "c::deep",
                "floating",
                "grad",
                "make",
                "operator<=",
                "uint8"
            ]
        );
    }
}
