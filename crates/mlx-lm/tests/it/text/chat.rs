//! Chat templates render as in transformers.

use std::time::{Duration, UNIX_EPOCH};

use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};
use mlx_lm::tokenizer::{SpecialTokens, TextError};
use serde_json::{Value, json};

use super::{golden, smollm2};

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Options of a golden conversation, which are keywords of `apply_chat_template`.
fn options(value: &Value) -> RenderOptions {
    let mut options = RenderOptions::default().add_generation_prompt(false);
    for (key, value) in value.as_object().into_iter().flatten() {
        options = match key.as_str() {
            "add_generation_prompt" => options.add_generation_prompt(value.as_bool().unwrap()),
            "continue_final_message" => options.continue_final_message(),
            "tools" => options.tools(value.as_array().unwrap().clone()),
            "documents" => options.documents(value.as_array().unwrap().clone()),
            name => options.variable(name, value.clone()),
        };
    }
    options
}

fn render(
    source: &str,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<String, TextError> {
    let mut special = SpecialTokens::default();
    special.bos = Some("<s>".to_owned());
    special.eos = Some("<|endoftext|>".to_owned());
    ChatTemplate::new(source)?
        .with_special_tokens(&special)
        .render(messages, options)
}

#[test]
fn templates_equal_transformers() {
    let golden = golden("templates.json");
    let rendered = golden["rendered"].as_array().unwrap();
    assert!(rendered.len() >= 50);
    for case in rendered {
        let (name, number) = (
            case[0].as_str().unwrap(),
            usize::try_from(case[1].as_u64().unwrap()).unwrap(),
        );
        let chat = &golden["conversations"][number];
        let source = golden["templates"][name].as_str().unwrap();
        let ours = render(
            source,
            &messages(&chat["messages"]),
            &options(&chat["options"]),
        );
        match case[2].as_str() {
            Some(text) => assert_eq!(ours.unwrap(), text, "{name} {number}"),
            None => assert!(
                ours.is_err(),
                "{name} {number} renders {ours:?}, but the peer says {}",
                case[3]
            ),
        }
    }
}

#[test]
fn smollm2_template_comes_from_the_file() {
    let tokenizer = smollm2();
    let messages = [Message::user("Hi")];
    let prompt = tokenizer
        .apply_chat_template(&messages, &RenderOptions::default())
        .unwrap();
    assert!(
        prompt.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        "{prompt}"
    );
    let tokens = tokenizer.encode(&prompt, true).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), prompt);
}

#[test]
fn errors_show_the_line() {
    let chat = [Message::user("x")];
    let fail = |source: &str| {
        render(source, &chat, &RenderOptions::default())
            .unwrap_err()
            .to_string()
    };
    let message = fail("a\n{% if messages %}\n  {{ messages[0].content.foo() }}\n{% endif %}");
    assert!(
        message.contains("line 3 (`{{ messages[0].content.foo() }}`)"),
        "{message}"
    );
    let message = fail("a\n{% for x y %}");
    assert!(message.contains("line 2 (`{% for x y %}`)"), "{message}");
    let message = fail("{% if true %}\n{{ raise_exception('only ' ~ 2 ~ ' roles') }}{% endif %}");
    assert_eq!(
        message,
        "chat template refused the conversation: only 2 roles"
    );
}

#[test]
fn conversations_are_checked() {
    let fail = |messages: &[Message]| {
        render("x", messages, &RenderOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(fail(&[]), "invalid conversation: it has no message");
    assert_eq!(
        fail(&[Message::default()]),
        "invalid conversation: message 1 has no role"
    );
    let fixed = RenderOptions::default().continue_final_message();
    let error = render("x", &[Message::assistant("cut")], &fixed).unwrap_err();
    assert!(error.to_string().contains("cannot be continued"), "{error}");
}

#[test]
fn time_is_told_in_the_format_asked_for() {
    let noon = UNIX_EPOCH + Duration::from_secs(1_709_208_000);
    let options = RenderOptions::default().now(noon);
    let text = render(
        "{{ strftime_now('%d %B %Y %%') }}",
        &[Message::user("x")],
        &options,
    )
    .unwrap();
    assert_eq!(text, "29 February 2024 %");
    let error = render("{{ strftime_now('%!') }}", &[Message::user("x")], &options).unwrap_err();
    assert!(
        matches!(error, TextError::Template { line: 1, .. }),
        "{error}"
    );
}

#[test]
fn hostile_templates_end() {
    let chat = [Message::user("x")];
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x'.center(1000000000000) }}",
        "{{ range(1000000000) | list | length }}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{{ messages | tojson(indent='x', what=1) }}",
        "{% include 'other' %}",
    ] {
        assert!(
            render(source, &chat, &RenderOptions::default()).is_err(),
            "{source}"
        );
    }
}

#[test]
fn messages_keep_the_order_of_their_keys() {
    let message = Message::user("x").with("b", 1).with("a", json!([null]));
    let text = render(
        "{{ messages[0] | tojson }}",
        &[message],
        &RenderOptions::default(),
    )
    .unwrap();
    assert_eq!(
        text,
        r#"{"role": "user", "content": "x", "b": 1, "a": [null]}"#
    );
}
