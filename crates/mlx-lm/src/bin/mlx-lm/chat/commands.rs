//! What a line that begins with a slash does.

use std::fs;
use std::path::Path;

use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, NewFile, note};
use serde_json::{Value, json};

use super::Session;
use crate::generate::summary;

const HELP: &str = "\
/help               this list
/reset              forget the conversation, keep the system message
/system [TEXT]      set the system message and start anew; without TEXT, remove it
/retry              answer the last question again
/undo               take back the last question and its answer
/think on|off       let the model think first, or not
/set NAME VALUE     temp, top_p, top_k, min_p, typical_p, top_n_sigma, xtc_probability, xtc_threshold,
                    repetition_penalty, presence_penalty, frequency_penalty, max_tokens, seed; VALUE
                    `default` goes back to the model's own; without NAME, show what is set
/stats [on|off]     statistics of the last answer, or after every answer
/save FILE          write the conversation to a JSON file
/load FILE          go on with such a conversation
/quit, /exit        leave, as Ctrl-D does
A line that ends in \\ goes on in the next; lines between two lines of \"\"\" are one message.
";

/// What happens after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Answer,
    Quit,
}

impl Session<'_> {
    pub(super) fn command(&mut self, line: &str) -> Result<Next, Failure> {
        let (name, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(name, rest)| (name, rest.trim()));
        match name {
            "help" | "h" | "?" => note(HELP),
            "quit" | "exit" | "q" | "bye" => return Ok(Next::Quit),
            "reset" | "clear" | "r" => {
                let system = self.system();
                self.chat.messages_mut().truncate(system);
                note("A new conversation.\n");
            }
            "system" => {
                self.chat.clear();
                if !rest.is_empty() {
                    self.chat.push(Message::system(rest));
                }
                note("A new conversation.\n");
            }
            "retry" => {
                if self.last_question().is_none() {
                    return Err(nothing());
                }
                self.replaced = self.chat.messages_mut().pop();
                return Ok(Next::Answer);
            }
            "undo" => {
                let question = self.last_question().ok_or_else(nothing)?;
                self.chat.messages_mut().truncate(question);
            }
            "think" => self.think(rest)?,
            "set" => self.set(rest)?,
            "stats" => match rest {
                "on" => self.verbose = true,
                "off" => self.verbose = false,
                _ if self.answered => note(&summary(&self.chat.stats())),
                _ => return Err(nothing()),
            },
            "save" => self.save(Path::new(rest))?,
            "load" => {
                self.load(Path::new(rest))?;
                note(&format!("{} messages.\n", self.chat.messages().len()));
            }
            _ => {
                return Err(Failure::usage(
                    format!("there is no command /{name}"),
                    "/help lists the commands",
                ));
            }
        }
        Ok(Next::Go)
    }

    /// Messages that are instructions and no turns: one or none.
    fn system(&self) -> usize {
        let first = self.chat.messages().first();
        usize::from(first.and_then(Message::role) == Some("system"))
    }

    /// Where the last question stands that has an answer.
    fn last_question(&self) -> Option<usize> {
        let messages = self.chat.messages();
        let is_answered = messages.last()?.role() == Some("assistant");
        let question = messages
            .iter()
            .rposition(|message| message.role() == Some("user"));
        question.filter(|_| is_answered)
    }

    fn think(&mut self, value: &str) -> Result<(), Failure> {
        let enable = match value {
            "on" => true,
            "off" => false,
            _ => return Err(Failure::usage("/think on, or /think off", "say which")),
        };
        let render = self.chat.render_options().clone();
        *self.chat.render_options_mut() = render.enable_thinking(enable);
        Ok(())
    }

    fn set(&mut self, rest: &str) -> Result<(), Failure> {
        if rest.is_empty() {
            note(&self.settings());
            return Ok(());
        }
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = value.trim();
        let bad = || {
            Failure::usage(
                format!("{name} cannot be `{value}`"),
                "give a number, or `default`",
            )
        };
        let options = self.chat.options().clone();
        let options = match name {
            "temp" | "temperature" => options.temperature(number(value).map_err(|()| bad())?),
            "top_p" => options.top_p(number(value).map_err(|()| bad())?),
            "top_k" => options.top_k(number(value).map_err(|()| bad())?),
            "min_p" => options.min_p(number(value).map_err(|()| bad())?),
            "typical_p" => options.typical_p(number(value).map_err(|()| bad())?),
            "top_n_sigma" => options.top_n_sigma(number(value).map_err(|()| bad())?),
            "xtc_probability" => options.xtc_probability(number(value).map_err(|()| bad())?),
            "xtc_threshold" => options.xtc_threshold(number(value).map_err(|()| bad())?),
            "presence_penalty" => options.presence_penalty(number(value).map_err(|()| bad())?),
            "frequency_penalty" => options.frequency_penalty(number(value).map_err(|()| bad())?),
            "repetition_penalty" => options.repetition_penalty(number(value).map_err(|()| bad())?),
            "seed" => options.seed(number(value).map_err(|()| bad())?),
            "max_tokens" => options.max_tokens(value.parse().map_err(|_| bad())?),
            _ => {
                return Err(Failure::usage(
                    format!("there is no setting `{name}`"),
                    "/help lists the settings",
                ));
            }
        };
        options.sampling(self.chat.model().sampling()).validate()?;
        *self.chat.options_mut() = options;
        Ok(())
    }

    fn settings(&self) -> String {
        let options = self.chat.options();
        let sampling = options.sampling(self.chat.model().sampling());
        let values = [
            ("temp", sampling.temperature),
            ("top_p", sampling.top_p),
            ("min_p", sampling.min_p),
            ("typical_p", sampling.typical_p),
            ("top_n_sigma", sampling.top_n_sigma),
            ("xtc_probability", sampling.xtc_probability),
            ("xtc_threshold", sampling.xtc_threshold),
            ("repetition_penalty", sampling.repetition_penalty),
            ("presence_penalty", sampling.presence_penalty),
            ("frequency_penalty", sampling.frequency_penalty),
        ];
        let mut text: String = values
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        text.push_str(&format!("top_k {}\n", sampling.top_k));
        text.push_str(&format!("max_tokens {}\n", options.max_tokens));
        text
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        if path.as_os_str().is_empty() {
            return Err(Failure::usage("/save needs a file", "/save talk.json"));
        }
        let file = NewFile::create(path)?;
        let record = json!({ "messages": self.chat.messages() });
        fs::write(file.temporary(), format!("{record:#}\n"))
            .map_err(|source| Failure::file("write", path, &source))?;
        file.finish()
    }

    /// Goes on with a saved conversation.
    pub(super) fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let text =
            fs::read_to_string(path).map_err(|source| Failure::file("read", path, &source))?;
        let bad = |what: String| {
            Failure::usage(
                format!("{}: {what}", path.display()),
                "give a file that /save wrote, or a JSON list of messages",
            )
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let list = value.get("messages").unwrap_or(&value).clone();
        let messages: Vec<Message> =
            serde_json::from_value(list).map_err(|error| bad(error.to_string()))?;
        if messages.iter().any(|message| message.role().is_none()) {
            return Err(bad("a message has no role".to_owned()));
        }
        *self.chat.messages_mut() = messages;
        Ok(())
    }
}

fn nothing() -> Failure {
    Failure::usage("there is no answer yet", "ask something first")
}

/// A number, or nothing for `default`.
fn number<T: std::str::FromStr>(text: &str) -> Result<Option<T>, ()> {
    match text {
        "default" => Ok(None),
        text => text.parse().map(Some).map_err(|_| ()),
    }
}
