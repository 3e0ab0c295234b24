//! Compiling and rendering chat templates.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

use super::environment::{self, Refusal};
use super::message::Message;
use super::options::RenderOptions;
use super::preprocess::preprocess;
use crate::tokenizer::{Result, SpecialTokens, TextError};

const NAME: &str = "chat_template";

/// Names under which the thoughts of a message are known; the first is what templates read.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Stands behind a message that is to be continued, until its place in the prompt is found.
const CONTINUE_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A compiled chat template.
///
/// ```
/// use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};
/// let template = ChatTemplate::new(
///     "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}\
///      {% if add_generation_prompt %}<assistant>{% endif %}",
/// )?;
/// let prompt = template.render(&[Message::user(" Hi ")], &RenderOptions::default())?;
/// assert_eq!(prompt, "<user>Hi\n<assistant>");
/// # Ok::<(), mlx_lm::tokenizer::TextError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: Map<String, Json>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line that does not compile.
    pub fn new(source: &str) -> Result<Self> {
        let source = preprocess(source);
        let mut environment = environment::environment();
        environment
            .add_template_owned(NAME, source.clone())
            .map_err(|error| template_error(&error, &source))?;
        Ok(Self {
            environment,
            source,
            special: Map::new(),
        })
    }

    /// Gives the template `bos_token`, `eos_token` and their like.
    pub fn with_special_tokens(mut self, special: &SpecialTokens) -> Self {
        self.special = special
            .named()
            .map(|(name, token)| (name.to_owned(), Json::from(token)))
            .collect();
        self
    }

    /// The prompt for a conversation.
    ///
    /// Keys of a message whose value is null are left out, and `reasoning_content`, `thinking` and
    /// `reasoning` stand for each other, as in transformers.
    ///
    /// # Errors
    /// [`TextError::Refused`] if the template rejects the conversation, [`TextError::Template`]
    /// with the failing line, [`TextError::Conversation`] for one that no template can render.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let mut messages = normalise(messages)?;
        let last = options
            .continue_final_message
            .then(|| mark_last(&mut messages))
            .transpose()?;
        let prompt = self.run(messages, options)?;
        match last {
            Some(last) => cut_at_mark(prompt, &last),
            None => Ok(prompt),
        }
    }

    fn run(&self, messages: Vec<Json>, options: &RenderOptions) -> Result<String> {
        let mut variables = self.special.clone();
        variables.extend(options.variables.clone());
        variables.insert("messages".to_owned(), Json::Array(messages));
        variables.insert(
            "tools".to_owned(),
            options.tools.clone().map_or(Json::Null, Json::Array),
        );
        variables.insert(
            "documents".to_owned(),
            options.documents.clone().map_or(Json::Null, Json::Array),
        );
        variables.insert(
            "add_generation_prompt".to_owned(),
            options.add_generation_prompt.into(),
        );
        let context: BTreeMap<String, Value> = variables
            .into_iter()
            .map(|(name, value)| (name, Value::from_serialize(value)))
            .chain([(
                "strftime_now".to_owned(),
                environment::strftime_now(options.now),
            )])
            .collect();
        // The engine has arithmetic that panics on odd slices, such as `''[::-1]`; whoever wrote the
        // template or the message must not end the program with one.
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            self.environment.get_template(NAME)?.render(context)
        }));
        match rendered {
            Ok(prompt) => prompt.map_err(|error| template_error(&error, &self.source)),
            Err(_) => Err(TextError::Template {
                line: 0,
                source_line: String::new(),
                message: "the template engine failed on an expression".to_owned(),
            }),
        }
    }
}

/// The chat templates of a model, by name; the one that serves ordinary chats is `default`.
#[derive(Debug, Clone, Default)]
pub struct ChatTemplates {
    sources: BTreeMap<String, String>,
}

impl ChatTemplates {
    /// Takes template sources by name. Nothing is compiled yet.
    #[must_use]
    pub fn new(sources: BTreeMap<String, String>) -> Self {
        Self { sources }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The source of a template.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&str> {
        self.sources.get(name).map(String::as_str)
    }

    /// Compiles the template that fits: the one that `options` names, else `tool_use` if there are
    /// tools, else `default`, else the only one.
    ///
    /// # Errors
    /// [`TextError::MissingTemplate`], or [`TextError::Template`] if it does not compile.
    pub fn select(&self, options: &RenderOptions) -> Result<ChatTemplate> {
        let source = match &options.template {
            Some(name) => self.source(name),
            None => options
                .tools
                .as_ref()
                .and_then(|_| self.source("tool_use"))
                .or_else(|| self.source("default"))
                .or_else(|| match self.sources.len() {
                    1 => self.sources.values().next().map(String::as_str),
                    _ => None,
                }),
        };
        let source = source.ok_or_else(|| TextError::MissingTemplate {
            name: options.template.clone(),
            available: self.sources.keys().cloned().collect(),
        })?;
        ChatTemplate::new(source)
    }
}

/// The messages as templates get them.
fn normalise(messages: &[Message]) -> Result<Vec<Json>> {
    if messages.is_empty() {
        return Err(TextError::Conversation("it has no message".to_owned()));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            if message.role().is_none() {
                return Err(TextError::Conversation(format!(
                    "message {} has no role",
                    index + 1
                )));
            }
            let given = message.map().iter().filter(|(_, value)| !value.is_null());
            let mut map: Map<String, Json> = given
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if let Some(reasoning) = REASONING_KEYS.iter().find_map(|key| map.get(*key)).cloned() {
                map.insert("reasoning_content".to_owned(), reasoning.clone());
                if !map.contains_key("thinking") {
                    map.shift_insert(0, "thinking".to_owned(), reasoning);
                }
            }
            Ok(Json::Object(map))
        })
        .collect()
}

/// Puts the mark behind the last message's text and returns that text.
fn mark_last(messages: &mut [Json]) -> Result<String> {
    let fail = || TextError::Conversation("the final message has no text to continue".to_owned());
    let content = messages
        .last_mut()
        .and_then(|last| last.get_mut("content"))
        .ok_or_else(fail)?;
    let text = match content {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => Some(content),
    };
    let Some(Json::String(text)) = text else {
        return Err(fail());
    };
    let original = text.clone();
    text.push_str(CONTINUE_MARK);
    Ok(original)
}

/// Ends the prompt where the last message's text ends.
fn cut_at_mark(mut prompt: String, last: &str) -> Result<String> {
    let at = prompt.rfind(CONTINUE_MARK.trim_end());
    let Some(at) = at.filter(|_| prompt.contains(last.trim())) else {
        return Err(TextError::Conversation(
            "the template changes the final message, so it cannot be continued".to_owned(),
        ));
    };
    let spaced = prompt
        .get(at..)
        .is_some_and(|rest| rest.starts_with(CONTINUE_MARK));
    prompt.truncate(at);
    if !spaced {
        // The template trimmed the message, and so the text before the mark is to be trimmed too.
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}

fn template_error(error: &minijinja::Error, source: &str) -> TextError {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref() {
            return TextError::Refused {
                message: message.clone(),
            };
        }
        cause = current.source();
    }
    let line = error.line().unwrap_or(0);
    let source_line = source.lines().nth(line.wrapping_sub(1)).unwrap_or_default();
    TextError::Template {
        line,
        source_line: source_line.trim().to_owned(),
        message: match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        },
    }
}
