//! One answer.

use mlx_lm::chat::{Message, ReasoningParser, ReasoningText};
use mlx_lm::cli::{Failure, Progress, Unit, note, write_out};
use mlx_lm::generate::Turn;
use mlx_lm::{Error, LoadedModel};

use super::Session;
use crate::generate::summary;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

impl Session<'_> {
    /// Answers the last message; if nothing comes of it, the message is taken back, or the answer
    /// put back that was to be replaced.
    pub(super) fn answer(&mut self) -> Result<(), Failure> {
        let cancel = self.interrupt.begin();
        self.chat.options_mut().cancel = cancel.clone();
        let result = self.stream(&cancel);
        self.interrupt.end();
        let replaced = self.replaced.take();
        match result {
            Ok(reply) => {
                self.chat.push(reply);
                Ok(())
            }
            Err(failure) => {
                match replaced {
                    Some(answer) => self.chat.push(answer),
                    None => drop(self.chat.messages_mut().pop()),
                }
                Err(failure)
            }
        }
    }

    fn stream(&mut self, cancel: &mlx_lm::CancelFlag) -> Result<Message, Failure> {
        let model = self.chat.model();
        let tokenizer = model.tokenizer();
        let mut parser = reasoning(model, self.chat.render_options(), &self.chat.prompt()?);
        let marks: Vec<String> = parser
            .iter()
            .flat_map(|parser| parser.marks().map(str::to_owned))
            .collect();
        // Marks of thoughts may be special tokens, which text alone does not show.
        let mut detokenizer = tokenizer.detokenizer_showing(marks.iter().map(String::as_str));
        let own_text = parser.is_some() && self.chat.options().stop.is_empty();
        let mut progress = Progress::new("reading the conversation", Unit::Tokens, self.quiet);
        let mut shown = Shown {
            colour: self.colour,
            ..Shown::default()
        };
        let mut failed = None;
        let answered = self.chat.answer(|turn| {
            let segment = match turn {
                Turn::Prefill { done, total } => return progress.set(done, total),
                Turn::Segment(segment) if failed.is_none() => segment,
                _ => return,
            };
            let text = match own_text {
                true if tokenizer.is_eos(segment.token) => Ok(String::new()),
                true => detokenizer.push(segment.token).map_err(Failure::from),
                false => Ok(segment.text.clone()),
            };
            let written = text.and_then(|text| shown.show(&sort(parser.as_mut(), &text)));
            if let Err(failure) = written {
                failed = Some(failure);
                cancel.cancel();
            }
        });
        drop(progress);
        if let Some(failure) = failed {
            return Err(failure);
        }
        let stopped = match answered {
            Ok(_) => false,
            Err(Error::Cancelled) => true,
            Err(error) => return Err(error.into()),
        };
        if own_text {
            shown.show(&sort(parser.as_mut(), &detokenizer.finish()?))?;
        }
        if let Some(parser) = &mut parser {
            shown.show(&parser.finish())?;
        }
        shown.end()?;
        self.answered = true;
        if stopped {
            note("(stopped)\n");
        } else if self.verbose {
            note(&summary(&self.chat.stats()));
        }
        let reply = Message::assistant(shown.text.content.trim_start_matches('\n'));
        Ok(match shown.text.reasoning.trim() {
            "" => reply,
            thoughts => reply.with("reasoning_content", thoughts),
        })
    }
}

fn sort(parser: Option<&mut ReasoningParser>, text: &str) -> ReasoningText {
    match parser {
        Some(parser) => parser.push(text),
        None => ReasoningText {
            content: text.to_owned(),
            ..ReasoningText::default()
        },
    }
}

/// What tells thoughts from answers, if the model's template knows thoughts.
fn reasoning(
    model: &LoadedModel,
    render: &mlx_lm::chat::RenderOptions,
    prompt: &str,
) -> Option<ReasoningParser> {
    let templates = model.tokenizer().chat_templates();
    let name = render.template.as_deref().unwrap_or("default");
    let source = templates
        .source(name)
        .or_else(|| templates.source(templates.names().next()?))?;
    ReasoningParser::detect(source, prompt)
}

/// What has been written so far.
#[derive(Default)]
struct Shown {
    text: ReasoningText,
    colour: bool,
    thinking: bool,
}

impl Shown {
    fn show(&mut self, new: &ReasoningText) -> Result<(), Failure> {
        if !new.reasoning.is_empty() {
            if self.colour && !self.thinking {
                write_out(DIM)?;
            }
            self.thinking = true;
            write_out(&new.reasoning)?;
        }
        if !new.content.is_empty() {
            let first = self.text.content.trim().is_empty();
            if self.thinking {
                let plain = if self.colour { PLAIN } else { "" };
                write_out(&format!("{plain}\n"))?;
                self.thinking = false;
            }
            // Line ends between thought and answer are the template's, not the answer's.
            let content = match first {
                true => new.content.trim_start_matches('\n'),
                false => &new.content,
            };
            write_out(content)?;
        }
        self.text.reasoning.push_str(&new.reasoning);
        self.text.content.push_str(&new.content);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        let plain = if self.colour && self.thinking {
            PLAIN
        } else {
            ""
        };
        write_out(&format!("{plain}\n"))
    }
}
