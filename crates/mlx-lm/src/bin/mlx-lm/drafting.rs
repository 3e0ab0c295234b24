//! Several tokens at a time.

use std::path::PathBuf;

use clap::Args;
use mlx_lm::cli::{Failure, Progress, Unit, find_model};
use mlx_lm::generate::Speculation;
use mlx_lm::{CancelFlag, LoadedModel, Loader};

/// Tokens that a draft model proposes, as in Python's mlx-lm.
const BY_MODEL: usize = 3;
/// Tokens that a look into the prompt proposes; they cost nothing.
const BY_LOOKUP: usize = 8;
/// Tokens that the model's own head proposes, which was trained to look one token further.
const BY_HEADS: usize = 2;

/// Arguments about speculative decoding.
#[derive(Debug, Args)]
#[command(next_help_heading = "Speculative decoding")]
pub(crate) struct DraftArguments {
    /// Let a smaller model of the same vocabulary propose tokens: folder, .gguf file or Hub id
    #[arg(long, value_name = "PATH", conflicts_with_all = ["prompt_lookup", "mtp"])]
    draft_model: Option<PathBuf>,
    /// Propose what followed the last N tokens where the text had them before
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "3", conflicts_with = "mtp")]
    prompt_lookup: Option<usize>,
    /// Let the model's own multi-token prediction head propose tokens, if it has one
    #[arg(long)]
    mtp: bool,
    /// Tokens proposed at a time [default: 3 with --draft-model, 8 with --prompt-lookup, 2 with
    /// --mtp]
    #[arg(long, value_name = "N")]
    num_draft_tokens: Option<usize>,
}

impl DraftArguments {
    /// Whether tokens are proposed at all.
    pub(crate) fn is_asked(&self) -> bool {
        self.draft_model.is_some() || self.prompt_lookup.is_some() || self.mtp
    }

    /// Whether the model's own head is to be loaded.
    pub(crate) fn own_heads(&self) -> bool {
        self.mtp
    }

    /// Loads the draft model, if one is asked for.
    pub(crate) fn load(
        &self,
        quiet: bool,
        cancel: &CancelFlag,
    ) -> Result<Option<LoadedModel>, Failure> {
        if let Some(0) = self.num_draft_tokens {
            return Err(Failure::usage(
                "--num-draft-tokens is 0",
                "give a number of 1 or more, or leave speculation out",
            ));
        }
        if self.num_draft_tokens.is_some() && !self.is_asked() {
            return Err(Failure::usage(
                "--num-draft-tokens needs --draft-model, --prompt-lookup or --mtp",
                "say where the tokens come from",
            ));
        }
        if let Some(0) = self.prompt_lookup {
            return Err(Failure::usage(
                "--prompt-lookup compares 0 tokens",
                "give a number of 1 or more",
            ));
        }
        let Some(path) = &self.draft_model else {
            return Ok(None);
        };
        let path = find_model(path, None, quiet, cancel)?;
        let mut progress = Progress::new("loading the draft model", Unit::Bytes, quiet);
        let loader = Loader::new(path)
            .cancel(cancel)
            .on_progress(|step| progress.set(step.done, step.total));
        Ok(Some(loader.load()?))
    }

    /// How tokens are proposed; `draft` is what [`load`](Self::load) gave.
    pub(crate) fn speculation<'m>(
        &self,
        model: &LoadedModel,
        draft: Option<&'m LoadedModel>,
    ) -> Result<Option<Speculation<'m>>, Failure> {
        if let Some(draft) = draft {
            let count = self.num_draft_tokens.unwrap_or(BY_MODEL);
            return Ok(Some(Speculation::between(model, draft, count)?));
        }
        if self.mtp {
            if model.model().multi_token().is_none() {
                return Err(Failure::new(
                    "--mtp: this checkpoint has no multi-token prediction head that is supported",
                    "DeepSeek-V3, GLM-4.5, Qwen3-Next and Qwen3.5 are published with one, but \
                     conversions mostly leave it out; --draft-model and --prompt-lookup need none",
                ));
            }
            let count = self.num_draft_tokens.unwrap_or(BY_HEADS);
            return Ok(Some(Speculation::own_heads(count)));
        }
        let count = self.num_draft_tokens.unwrap_or(BY_LOOKUP);
        let lookup = |longest| Speculation::prompt_lookup(longest, 1, count);
        Ok(self.prompt_lookup.map(lookup))
    }
}
