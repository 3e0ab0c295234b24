//! Tool calls in every format: read as meant, whatever the pieces, and without losing a byte.

use mlx_lm::chat::{OutputPart, ToolFormat, ToolParser};
use serde_json::{Value, json};

/// Seeded so that a failure repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

fn tools() -> Vec<Value> {
    vec![
        json!({"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"},
                "metric": {"type": "boolean"}, "where": {"type": "object"}
            }
        }}}),
    ]
}

/// All parts of a text that comes in these pieces, neighbours of one kind joined.
fn parse<'a>(format: ToolFormat, pieces: impl IntoIterator<Item = &'a str>) -> Vec<OutputPart> {
    let mut parser = ToolParser::new(format, &tools());
    let mut parts: Vec<OutputPart> = pieces
        .into_iter()
        .flat_map(|piece| parser.push(piece))
        .collect();
    parts.extend(parser.finish());
    let mut joined: Vec<OutputPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), &part) {
            (Some(OutputPart::Text(last)), OutputPart::Text(new))
            | (Some(OutputPart::Reasoning(last)), OutputPart::Reasoning(new))
            | (Some(OutputPart::Mark(last)), OutputPart::Mark(new)) => last.push_str(new),
            _ => joined.push(part),
        }
    }
    joined
}

fn calls(parts: &[OutputPart]) -> Vec<(String, Value)> {
    let calls = parts.iter().filter_map(|part| match part {
        OutputPart::Call(call) => Some((call.name.clone(), call.arguments.clone())),
        _ => None,
    });
    calls.collect()
}

fn words(parts: &[OutputPart]) -> String {
    let words = parts.iter().filter_map(|part| match part {
        OutputPart::Text(text) => Some(text.as_str()),
        _ => None,
    });
    words.collect()
}

/// What models of each family write for a call of `weather` and one of `now`.
fn samples() -> Vec<(ToolFormat, String, &'static str)> {
    let weather =
        r#"{"name": "weather", "arguments": {"city": "São </tool_call> \"Rome\"", "days": 2}}"#;
    let now = r#"{"name": "now", "arguments": {}}"#;
    vec![
        (
            ToolFormat::Hermes,
            format!("Well.\n<tool_call>\n{weather}\n</tool_call>\n<tool_call>\n{now}\n</tool_call>"),
            "Well.\n\n",
        ),
        (
            ToolFormat::Llama3,
            format!(
                "<|python_tag|>{}; {}",
                weather.replace("arguments", "parameters"),
                now.replace("arguments", "parameters")
            ),
            " ",
        ),
        (
            ToolFormat::Llama3,
            r#"Sure. <function=weather>{"city": "São </tool_call> \"Rome\"", "days": 2}</function><function=now>{}</function>"#.to_owned(),
            "Sure. ",
        ),
        (
            ToolFormat::Mistral,
            format!("Well. [TOOL_CALLS] [{weather}, {now}]"),
            "Well. ",
        ),
        (
            ToolFormat::Mistral,
            r#"[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "São </tool_call> \"Rome\"", "days": 2}[TOOL_CALLS]now[ARGS]{}"#.to_owned(),
            "",
        ),
        (
            ToolFormat::Pythonic,
            r#"Ok <|tool_call_start|>[weather(city='São </tool_call> "Rome"', days=2), now()]<|tool_call_end|> done"#.to_owned(),
            "Ok  done",
        ),
        (
            ToolFormat::Pythonic,
            r#"[weather(city="São </tool_call> \"Rome\"", days=2), now()]"#.to_owned(),
            "",
        ),
        (
            ToolFormat::QwenXml,
            "Hm. <tool_call>\n<function=weather>\n<parameter=city>\nSão </tool_call> \"Rome\"\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>".to_owned(),
            "Hm. \n",
        ),
        (
            ToolFormat::Glm,
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>São </tool_call> \"Rome\"</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><tool_call>now</tool_call>".to_owned(),
            "",
        ),
        (
            ToolFormat::Kimi,
            r#"Go.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "São </tool_call> \"Rome\"", "days": 2}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"#.to_owned(),
            "Go.",
        ),
        (
            ToolFormat::MiniMax,
            "A\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">São </tool_call> \"Rome\"</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>".to_owned(),
            "A\n",
        ),
        (
            ToolFormat::Gemma,
            "<|tool_call>call:weather{city:<|\"|>São </tool_call> \"Rome\"<|\"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>".to_owned(),
            "",
        ),
        (
            ToolFormat::Gemma,
            "<start_function_call>call:weather{city:<escape>São </tool_call> \"Rome\"<escape>,days:2}<end_function_call><start_function_call>call:now{}<end_function_call>".to_owned(),
            "",
        ),
        (
            ToolFormat::DeepSeek,
            "Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"São </tool_call> \\\"Rome\\\"\", \"days\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>".to_owned(),
            "Yes.\n",
        ),
        (
            ToolFormat::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"São </tool_call> \\\"Rome\\\"\", \"days\": 2}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>".to_owned(),
            "",
        ),
        (
            ToolFormat::DeepSeek,
            "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">São </tool_call> \"Rome\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>".to_owned(),
            "",
        ),
        (
            ToolFormat::Harmony,
            r#"<|channel|>analysis<|message|>Which city?<|end|><|start|>assistant<|channel|>commentary<|message|>Looking.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "São </tool_call> \"Rome\"", "days": 2}<|call|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>"#.to_owned(),
            "Looking.",
        ),
    ]
}

fn expected() -> Vec<(String, Value)> {
    vec![
        (
            "weather".to_owned(),
            json!({"city": "São </tool_call> \"Rome\"", "days": 2}),
        ),
        ("now".to_owned(), json!({})),
    ]
}

#[test]
fn every_format_is_read_as_meant() {
    let mut seen = Vec::new();
    for (format, text, said) in samples() {
        let parts = parse(format, [text.as_str()]);
        assert_eq!(calls(&parts), expected(), "{format}: {text}");
        assert_eq!(words(&parts), said, "{format}: {text}");
        let read: String = parts.iter().map(OutputPart::source).collect();
        assert_eq!(read, text);
        seen.push(format);
    }
    for format in ToolFormat::ALL {
        assert!(seen.contains(format), "{format} has no sample");
        assert_eq!(format.name().parse(), Ok(*format));
    }
}

#[test]
fn ids_come_from_the_formats_that_have_them() {
    let ids = |format: ToolFormat, text: &str| -> Vec<Option<String>> {
        let parts = parse(format, [text]);
        let ids = parts.into_iter().filter_map(|part| match part {
            OutputPart::Call(call) => Some(call.id),
            _ => None,
        });
        ids.collect()
    };
    for (format, text, _) in samples() {
        let expected = match format {
            ToolFormat::Kimi => vec![
                Some("functions.weather:0".to_owned()),
                Some("functions.now:1".to_owned()),
            ],
            ToolFormat::Mistral if text.contains("CALL_ID") => {
                vec![Some("a1b2c3d4e".to_owned()), None]
            }
            _ => vec![None, None],
        };
        assert_eq!(ids(format, &text), expected, "{format}");
    }
}

#[test]
fn thoughts_of_harmony_are_told_apart() {
    let text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|return|>";
    let parts = parse(ToolFormat::Harmony, [text]);
    assert!(parts.contains(&OutputPart::Reasoning("Hm.".to_owned())));
    assert_eq!(words(&parts), "Hi!");
}

/// The pieces of a text, cut at random places.
fn cut<'a>(text: &'a str, chance: &mut Chance) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let most = 1 + chance.below(23);
        let mut length = most.min(rest.len());
        while !rest.is_char_boundary(length) {
            length += 1;
        }
        let (piece, after) = rest.split_at(length);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A text with something wrong in it.
fn damage(text: &str, other: &str, chance: &mut Chance) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = chance.below(characters.len());
    let (before, after) = characters.split_at(at);
    let skip = chance.below(20).min(after.len());
    let others: Vec<char> = other.chars().collect();
    let from = chance.below(others.len());
    let to = from + chance.below(40).min(others.len() - from);
    match chance.below(5) {
        0 => before.iter().collect(),
        1 => before.iter().chain(&after[skip..]).collect(),
        2 => before
            .iter()
            .chain(&others[from..to])
            .chain(after)
            .collect(),
        3 => {
            before
                .iter()
                .chain(&['"', '}', '<', '\u{1}', '\\'])
                .collect::<String>()
                + &after.iter().collect::<String>()
        }
        _ => [before, &others[from..to], &after[skip..]]
            .concat()
            .iter()
            .collect(),
    }
}

#[test]
fn the_cuts_of_a_stream_make_no_difference_and_nothing_is_lost() {
    let mut chance = Chance(11);
    let samples = samples();
    for (format, text, _) in &samples {
        for round in 0..400 {
            let mut text = text.clone();
            for _ in 0..round % 4 {
                let other = &samples[chance.below(samples.len())].1;
                text = damage(&text, other, &mut chance);
            }
            let whole = parse(*format, [text.as_str()]);
            let read: String = whole.iter().map(OutputPart::source).collect();
            assert_eq!(read, text, "{format}");
            for _ in 0..3 {
                let pieces = cut(&text, &mut chance);
                assert_eq!(
                    parse(*format, pieces.iter().copied()),
                    whole,
                    "{format}: {pieces:?}"
                );
            }
            let single: Vec<String> = text.chars().map(String::from).collect();
            assert_eq!(
                parse(*format, single.iter().map(String::as_str)),
                whole,
                "{format}: {text}"
            );
        }
    }
}

#[test]
fn text_that_is_no_call_comes_at_once() {
    for format in ToolFormat::ALL {
        let mut parser = ToolParser::new(*format, &[]);
        let parts = parser.push("Use x < 3, [1] and {}. ");
        // Harmony's words stand in a message; there, and in front of a possible mark, too, they show.
        assert!(
            words(&parts).starts_with("Use x < 3"),
            "{format}: {parts:?}"
        );
    }
    // A mark that nothing follows which could be a call is text.
    let mut parser = ToolParser::new(ToolFormat::Hermes, &[]);
    assert_eq!(
        words(&parser.push("The tag <tool_call> opens a call. ")),
        "The tag <tool_call> opens a call. "
    );
}

#[test]
fn long_arguments_take_linear_time() {
    let time = |size: usize| {
        let text = format!(
            "<tool_call>{{\"name\": \"write\", \"arguments\": {{\"text\": \"{}\"}}}}</tool_call>",
            "word ".repeat(size)
        );
        let start = std::time::Instant::now();
        let mut parser = ToolParser::new(ToolFormat::Hermes, &[]);
        let mut parts = Vec::new();
        for piece in text.as_bytes().chunks(5) {
            parts.extend(parser.push(std::str::from_utf8(piece).unwrap()));
        }
        assert_eq!(calls(&parts).len(), 1);
        start.elapsed()
    };
    time(100);
    // Quadratic work would cost 400 times as much.
    let (short, long) = (time(1_000), time(20_000));
    assert!(long < short * 150, "{short:?} became {long:?}");
}

#[test]
fn templates_tell_the_format() {
    for (template, token, format) in [
        (
            "{% if tools %}<tool_call>{{ tool_call.name }}",
            "",
            Some(ToolFormat::Hermes),
        ),
        (
            "{% if tools %}<tool_call>\n<function=f>\n<parameter=x>",
            "",
            Some(ToolFormat::QwenXml),
        ),
        (
            "{{ tools }}<tool_call>{{ name }}<arg_key>",
            "",
            Some(ToolFormat::Glm),
        ),
        ("{{ tools }}[TOOL_CALLS]", "", Some(ToolFormat::Mistral)),
        (
            "{{ tools }}<|start|>assistant<|channel|>commentary to=functions.f<|call|>",
            "",
            Some(ToolFormat::Harmony),
        ),
        ("{{ tools }}", "<|python_tag|>", Some(ToolFormat::Llama3)),
        ("{{ tools }}", "", None),
        ("{{ messages }}", "[TOOL_CALLS]", None),
    ] {
        let found = ToolFormat::detect(template, |name| !token.is_empty() && name == token);
        assert_eq!(found, format, "{template}");
    }
}
