//! A conversation that the model remembers.

use std::fmt;

use super::draft::Speculation;
use super::generator::{Generator, GeneratorOptions};
use super::options::GenerateOptions;
use super::request::{Event, Request, Segment};
use super::stats::Stats;
use crate::chat::{Message, RenderOptions};
use crate::prefix::PrefixStore;
use crate::{Error, LoadedModel, Result};

/// Bytes that a conversation may keep of what the model remembers.
const REMEMBERED: usize = 1 << 30;

/// A conversation, in which each turn begins with what the model remembers of
/// the earlier ones.
///
/// ```no_run
/// use mlx_lm::generate::ChatSession;
///
/// let model = mlx_lm::load("models/qwen3-0.6b")?;
/// let mut chat = ChatSession::new(&model, &Default::default());
/// let (answer, _) = chat.send("Name a river.", |segment| print!("{}", segment.text))?;
/// let (_, stats) = chat.send("And a longer one?", |_| {})?;
/// println!("{answer} ... {} tokens", stats.generation_tokens);
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[must_use]
pub struct ChatSession<'m> {
    model: &'m LoadedModel,
    generator: Generator<'m>,
    messages: Vec<Message>,
    options: GenerateOptions,
    render: RenderOptions,
    stats: Stats,
}

impl fmt::Debug for ChatSession<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatSession")
            .field("messages", &self.messages)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<'m> ChatSession<'m> {
    /// An empty conversation.
    pub fn new(model: &'m LoadedModel, options: &GenerateOptions) -> Self {
        let generator = Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .options(GeneratorOptions::default().cache(options.cache()))
            .prefix_store(PrefixStore::new(REMEMBERED));
        Self {
            model,
            generator,
            messages: Vec::new(),
            options: options.clone(),
            render: RenderOptions::default(),
            stats: Stats::default(),
        }
    }

    /// Sets how the conversation is rendered.
    pub fn render(mut self, render: RenderOptions) -> Self {
        self.render = render;
        self
    }

    /// Proposes several tokens at a time and lets the model check them at once.
    pub fn speculation(mut self, speculation: Speculation<'m>) -> Self {
        self.generator = self.generator.speculation(speculation);
        self
    }

    /// Puts a message at the end without an answer to it: instructions, or a
    /// turn that was spoken elsewhere.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// The conversation so far.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The conversation, to take turns back or to put others in their place.
    pub fn messages_mut(&mut self) -> &mut Vec<Message> {
        &mut self.messages
    }

    /// The model that answers.
    pub fn model(&self) -> &'m LoadedModel {
        self.model
    }

    /// What is generated, and when it stops.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The same, to change it between turns. How caches are made is settled
    /// with the first options.
    pub fn options_mut(&mut self) -> &mut GenerateOptions {
        &mut self.options
    }

    /// How the conversation is rendered.
    pub fn render_options(&self) -> &RenderOptions {
        &self.render
    }

    /// The same, to change it between turns.
    pub fn render_options_mut(&mut self) -> &mut RenderOptions {
        &mut self.render
    }

    /// Begins anew; what the model remembers of it may still be of use.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Says something and returns the answer; `on_segment` sees it as it comes.
    ///
    /// # Errors
    /// As [`LoadedModel::chat`]. The conversation is then as it was before.
    pub fn send(
        &mut self,
        text: &str,
        mut on_segment: impl FnMut(&Segment),
    ) -> Result<(String, Stats)> {
        self.messages.push(Message::user(text));
        let mut answer = String::new();
        let answered = self.answer(|turn| {
            if let Turn::Segment(segment) = turn {
                answer.push_str(&segment.text);
                on_segment(segment);
            }
        });
        match answered {
            Ok(stats) => {
                self.messages.push(Message::assistant(answer.as_str()));
                Ok((answer, stats))
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// The prompt of the next answer, as text.
    ///
    /// # Errors
    /// [`Error::Text`] if there is no template or it fails.
    pub fn prompt(&self) -> Result<String> {
        let tokenizer = self.model.tokenizer();
        Ok(tokenizer.apply_chat_template(&self.messages, &self.render)?)
    }

    /// Answers the conversation as it stands and leaves it so: the answer is
    /// the caller's to add, as a whole or in part.
    ///
    /// # Errors
    /// As [`LoadedModel::chat`]; [`Error::Cancelled`] if the options' flag was
    /// raised, after the segments that had come until then.
    pub fn answer(&mut self, mut on_turn: impl FnMut(Turn<'_>)) -> Result<Stats> {
        let prompt = self.tokens(&self.render)?;
        let sampling = self.options.sampling(self.model.sampling());
        // The next prompt may part from this one where the answer begins.
        let spoken = self.tokens(&self.render.clone().add_generation_prompt(false))?;
        let pairs = spoken.iter().zip(&prompt);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let mut request = Request::with(prompt, &sampling, &self.options);
        request.snapshots = vec![shared];
        request.keep_cache = true;
        self.stats = Stats::default();
        let id = self.generator.insert(request)?;
        while !self.generator.is_idle() {
            let events = self.generator.step()?;
            if let Some(stats) = self.generator.stats() {
                self.stats = stats;
            }
            // An answer that failed may have left something to tell.
            for event in events.into_iter().filter(|event| event.id() == id) {
                match event {
                    Event::Prefill { done, total, .. } => on_turn(Turn::Prefill { done, total }),
                    Event::Segment { segment, .. } => on_turn(Turn::Segment(&segment)),
                    Event::Finished { stats, .. } => {
                        self.stats = stats;
                        return Ok(stats);
                    }
                    Event::Failed { error, .. } => return Err(error),
                    _ => {}
                }
            }
        }
        Err(Error::Cancelled)
    }

    fn tokens(&self, render: &RenderOptions) -> Result<Vec<u32>> {
        let tokenizer = self.model.tokenizer();
        let text = tokenizer.apply_chat_template(&self.messages, render)?;
        Ok(tokenizer.encode(&text, false)?)
    }

    /// Counts and times of the last answer, also of one that was cut short.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How often a turn began with something remembered, and how often not.
    #[must_use]
    pub fn reuse(&self) -> (u64, u64) {
        self.generator
            .prefixes()
            .map_or((0, 0), PrefixStore::statistics)
    }
}

/// What [`ChatSession::answer`] tells as it goes on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Turn<'a> {
    /// Some of the prompt was processed, or known from before.
    Prefill {
        /// Prompt tokens processed.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token came.
    Segment(&'a Segment),
}
