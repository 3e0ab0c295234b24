//! What a template's source needs before minijinja can read it.

/// Normalises line ends, as Jinja does, and turns `{% generation %}` blocks into `{% with %}`.
///
/// The generation tag marks what the assistant wrote, for training masks; for rendering it only is
/// a scope of its own, and so is `with`. Lines keep their numbers.
pub(super) fn preprocess(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut output = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some((text, code)) = rest.find('{').map(|at| rest.split_at(at)) {
        output.push_str(text);
        let length = match code.as_bytes().get(1) {
            Some(b'#') => code.find("#}").map_or(code.len(), |end| end + 2),
            Some(b'{') => end_of_code(code, "}}"),
            Some(b'%') => end_of_code(code, "%}"),
            _ => 1,
        };
        let (piece, after) = code.split_at(length);
        rest = after;
        match tag(piece) {
            Some("generation") => output.push_str(&piece.replacen("generation", "with", 1)),
            Some("endgeneration") => {
                output.push_str(&piece.replacen("endgeneration", "endwith", 1))
            }
            Some("raw") => {
                // Jinja keeps the line end after this tag, other than after any other block.
                match piece
                    .strip_suffix("%}")
                    .filter(|open| !open.ends_with(['-', '+']))
                {
                    Some(open) => output.extend([open, "+%}"]),
                    None => output.push_str(piece),
                }
                let (body, after) = rest.split_at(raw_length(rest));
                output.push_str(body);
                rest = after;
            }
            _ => output.push_str(piece),
        }
    }
    output.push_str(rest);
    output
}

/// The first word of a block.
fn tag(block: &str) -> Option<&str> {
    let inner = block
        .strip_prefix("{%")?
        .trim_start_matches(['-', '+'])
        .trim_start();
    inner
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

/// Length of the code that `source` begins with, up to and including `close` outside of strings.
fn end_of_code(source: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in source.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if source.get(at..).is_some_and(|code| code.starts_with(close)) => {
                return at + close.len();
            }
            None => {}
        }
    }
    source.len()
}

/// Length of a raw block's body with its closing tag.
fn raw_length(body: &str) -> usize {
    body.match_indices("{%")
        .map(|(at, _)| (at, body.split_at(at).1))
        .find(|(_, block)| tag(block) == Some("endraw"))
        .map_or(body.len(), |(at, block)| at + end_of_code(block, "%}"))
}

#[cfg(test)]
mod tests {
    use super::preprocess;

    #[test]
    fn generation_becomes_a_scope() {
        let source = "a{%- generation -%}b{% endgeneration %}\r\nc";
        assert_eq!(preprocess(source), "a{%- with -%}b{% endwith %}\nc");
    }

    #[test]
    fn other_places_keep_the_word() {
        for source in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{% raw -%}{% generation %}{% endraw %}",
            "{% set generation = '%}' %}",
            "{% if add_generation_prompt %}{generation}{% endif %}",
            "{{ \"\\\"{% generation %}\" }}",
            "{% unclosed",
            "{",
        ] {
            assert_eq!(preprocess(source), source);
        }
    }
}
