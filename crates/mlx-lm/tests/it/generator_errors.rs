//! What a generator tells when the model fails, and what it refuses.

use std::sync::atomic::{AtomicBool, Ordering};

use mlx_core::Array;
use mlx_lm::cache::{Cache, CacheOptions, LayerCache};
use mlx_lm::generate::{Event, Generator, Request};
use mlx_lm::registry::Input;
use mlx_lm::{Error, LanguageModel};
use mlx_nn::{KeyPath, Module, Visitor, VisitorMut};

use crate::support::{Outcome, config, model};

/// A model that fails when it is told to.
#[derive(Debug)]
struct Fragile<'m> {
    model: &'m dyn LanguageModel,
    fails: AtomicBool,
}

impl Module for Fragile<'_> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.model.visit(path, visitor);
    }

    fn visit_mut(&mut self, _: &KeyPath<'_>, _: &mut dyn VisitorMut) -> mlx_nn::Result<()> {
        Ok(())
    }
}

impl LanguageModel for Fragile<'_> {
    fn embed(&self, tokens: &Array) -> mlx_lm::Result<Array> {
        self.model.embed(tokens)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> mlx_lm::Result<Array> {
        // Prompts go on; what decodes one token at a time fails.
        match self.fails.load(Ordering::Relaxed) && input.tokens.dim(1)? == 1 {
            true => Err(Error::EmptyPrompt),
            false => self.model.hidden(input, cache),
        }
    }

    fn logits(&self, hidden: &Array) -> mlx_lm::Result<Array> {
        self.model.logits(hidden)
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        self.model.make_cache(options)
    }

    fn vocab_size(&self) -> i32 {
        self.model.vocab_size()
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        self.model.max_position_embeddings()
    }
}

#[test]
fn what_a_failed_step_had_to_tell_is_told_by_the_next() -> Outcome {
    let loaded = model(&config("llama"))?;
    let model = Fragile {
        model: loaded.model(),
        fails: AtomicBool::new(false),
    };
    let mut generator = Generator::new(&model);
    generator.insert(Request::new([5_u32, 6, 7]).max_tokens(9))?;
    drop(generator.step()?);
    drop(generator.step()?);
    // One that is cancelled while it waits is told of in the step that fails.
    let waiting = generator.insert(Request::new([8_u32, 9]).max_tokens(9))?;
    generator.cancel(waiting);
    model.fails.store(true, Ordering::Relaxed);
    assert!(matches!(generator.step(), Err(Error::EmptyPrompt)));
    assert!(!generator.is_idle(), "there is something to tell");
    model.fails.store(false, Ordering::Relaxed);
    let events = generator.step()?;
    let cancelled = |event: &Event| matches!(event, Event::Failed { id, error: Error::Cancelled } if *id == waiting);
    assert_eq!(events.iter().filter(|event| cancelled(event)).count(), 1);
    assert!(generator.is_idle());
    assert!(generator.step()?.is_empty());
    Ok(())
}

#[test]
fn stop_strings_need_a_tokenizer() -> Outcome {
    let loaded = model(&config("llama"))?;
    let mut request = Request::new([5_u32, 6]);
    request.stop = vec!["end".to_owned()];
    let refused = Generator::new(loaded.model()).insert(request);
    assert!(matches!(refused, Err(Error::Option { option: "stop", .. })));
    let mut request = Request::new([5_u32, 6]);
    request.stop = vec!["end".to_owned()];
    let mut generator = Generator::new(loaded.model()).tokenizer(loaded.tokenizer());
    generator.insert(request)?;
    Ok(())
}
