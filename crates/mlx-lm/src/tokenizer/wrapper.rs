//! The [`Tokenizer`] itself.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tokenizers::processors::template::{TemplateProcessing, TemplateProcessingBuilder};
use tokenizers::{AddedToken, Tokenizer as Backend};

use super::error::{Result, TextError};
use super::folder::FolderConfig;
use super::gguf::{self, GgufVocab};
use super::special::SpecialTokens;
use super::{sentencepiece, tiktoken};
use crate::chat::{ChatTemplates, Message, RenderOptions};
use crate::detokenize::{DecodePlan, Detokenizer};

/// Turns text into token ids and token ids into text.
///
/// Cloning is cheap. Reading and writing are `&self`, so that one tokenizer serves many threads.
#[derive(Clone)]
#[must_use]
pub struct Tokenizer {
    backend: Arc<Backend>,
    plan: Arc<DecodePlan>,
    special: SpecialTokens,
    bos_id: Option<u32>,
    adds_bos: bool,
    eos_ids: Vec<u32>,
    templates: ChatTemplates,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and the configuration beside it; without one, SentencePiece's
    /// `tokenizer.model` or a file of tiktoken.
    ///
    /// Optional are `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`,
    /// `chat_template.json` and `additional_chat_templates/*.jinja`. Truncation and padding that
    /// `tokenizer.json` may prescribe are left out: a prompt is never cut silently.
    ///
    /// # Errors
    /// [`TextError::MissingTokenizer`], [`TextError::Io`], or [`TextError::Format`] naming the
    /// file that cannot be understood.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (mut backend, config) = read_backend(folder)?;
        for (_, token) in &config.added_tokens {
            if backend.token_to_id(&token.content).is_none() {
                add(&mut backend, token.clone())?;
            }
        }
        add_named_special(&mut backend, &config.special, &config.additional_special)?;
        // A flag that is spelt out overrules the post-processor of tokenizer.json, which several
        // published checkpoints leave without it.
        let rebuild = config.add_bos.is_some()
            || config.add_eos.is_some()
            || backend.get_post_processor().is_none();
        if rebuild {
            let add = (
                config.add_bos.unwrap_or(false),
                config.add_eos.unwrap_or(false),
            );
            set_bos_eos(&mut backend, &config.special, add)?;
        }
        Self::assemble(
            backend,
            config.special,
            ChatTemplates::new(config.templates),
        )
    }

    /// Parses the text of a `tokenizer.json` that stands alone.
    ///
    /// # Errors
    /// [`TextError::Format`] if it is not a tokenizer.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self> {
        let backend = parse_backend(json.as_ref(), "tokenizer.json")?;
        Self::assemble(backend, SpecialTokens::default(), ChatTemplates::default())
    }

    /// The tokenizer as the text of a `tokenizer.json`, without templates and special roles.
    ///
    /// # Errors
    /// [`TextError::Tokenize`] if it cannot be written down.
    pub fn to_json(&self) -> Result<String> {
        self.backend
            .to_string(true)
            .map_err(|error| TextError::Tokenize {
                operation: "save",
                message: error.to_string(),
            })
    }

    /// Builds the tokenizer that a GGUF file describes in its metadata.
    ///
    /// # Errors
    /// [`TextError::Unsupported`] for a vocabulary or pre-tokenizer kind that is not known (wrong
    /// tokens would be worse than none), [`TextError::Format`] for metadata that contradicts itself.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        let parts = gguf::build(vocab)?;
        let mut backend = parts.backend;
        add_named_special(&mut backend, &parts.special, &[])?;
        set_bos_eos(&mut backend, &parts.special, (parts.add_bos, parts.add_eos))?;
        let templates = ChatTemplates::new(vocab.chat_templates());
        let mut tokenizer = Self::assemble(backend, parts.special, templates)?;
        tokenizer.add_eos_ids(parts.end_ids);
        Ok(tokenizer)
    }

    fn assemble(
        mut backend: Backend,
        special: SpecialTokens,
        templates: ChatTemplates,
    ) -> Result<Self> {
        backend.with_padding(None);
        backend
            .with_truncation(None)
            .map_err(|error| TextError::format("tokenizer.json", error))?;
        let id = |token: &Option<String>| {
            token
                .as_deref()
                .and_then(|token| backend.token_to_id(token))
        };
        let (bos_id, eos_id) = (id(&special.bos), id(&special.eos));
        let plan = DecodePlan::new(&backend)?;
        let mut tokenizer = Self {
            backend: Arc::new(backend),
            plan: Arc::new(plan),
            special,
            bos_id,
            adds_bos: false,
            eos_ids: eos_id.into_iter().collect(),
            templates,
        };
        let frame = tokenizer.encode("", true)?;
        tokenizer.adds_bos = bos_id.is_some() && frame.first().copied() == bos_id;
        Ok(tokenizer)
    }

    /// Token ids of `text`.
    ///
    /// With `add_special` the checkpoint's frame is added, usually a BOS token; a text that begins
    /// with BOS already, as most rendered chat templates do, does not get a second one.
    ///
    /// # Errors
    /// [`TextError::Tokenize`] if the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .backend
            .encode_fast(text, add_special)
            .map_err(|error| TextError::Tokenize {
                operation: "encode",
                message: error.to_string(),
            })?;
        let ids = encoding.get_ids();
        let doubled = add_special
            && self.adds_bos
            && ids.first().copied() == self.bos_id
            && ids.get(1).copied() == self.bos_id;
        Ok(ids.get(usize::from(doubled)..).unwrap_or_default().to_vec())
    }

    /// The text of token ids; ids that do not exist are skipped.
    ///
    /// Bytes that are not UTF-8 become U+FFFD. `skip_special` leaves out special tokens.
    ///
    /// # Errors
    /// [`TextError::Tokenize`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let shown =
            |id: u32| !(skip_special && self.is_special(id)) && self.id_to_token(id).is_some();
        // Some decoders assume that there is a token.
        if !ids.iter().any(|&id| shown(id)) {
            return Ok(String::new());
        }
        self.backend
            .decode(ids, skip_special)
            .map_err(|error| TextError::Tokenize {
                operation: "decode",
                message: error.to_string(),
            })
    }

    /// A streaming decoder that leaves out special tokens.
    pub fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer::new(&self.backend, &self.plan, true)
    }

    /// A streaming decoder that shows special tokens as text.
    pub fn detokenizer_with_special(&self) -> Detokenizer<'_> {
        Detokenizer::new(&self.backend, &self.plan, false)
    }

    /// A streaming decoder that leaves out special tokens but for those that spell one of `marks`,
    /// such as the marks of a [`ToolParser`](crate::chat::ToolParser).
    pub fn detokenizer_showing<'m>(
        &self,
        marks: impl IntoIterator<Item = &'m str>,
    ) -> Detokenizer<'_> {
        let marks: Vec<&str> = marks.into_iter().collect();
        let shown = self.backend.get_added_tokens_decoder();
        let shown = shown.into_iter().filter(|(_, token)| {
            let content = token.content.trim();
            marks
                .iter()
                .any(|mark| !content.is_empty() && mark.contains(content))
        });
        self.detokenizer().show(shown.map(|(id, _)| id).collect())
    }

    /// The id of a token, exactly as the vocabulary spells it.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The vocabulary's spelling of a token.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// Every token and its id, added tokens included.
    #[must_use]
    pub fn vocab(&self) -> HashMap<String, u32> {
        self.backend.get_vocab(true)
    }

    /// The decoder as `tokenizer.json` spells it; null without one.
    pub(crate) fn decoder_json(&self) -> serde_json::Value {
        let decoder = self.backend.get_decoder();
        decoder
            .and_then(|decoder| serde_json::to_value(decoder).ok())
            .unwrap_or_default()
    }

    /// Number of tokens, added tokens included. A model's embedding may have more rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    /// Whether the id is a special token, which [`detokenizer`](Self::detokenizer) leaves out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.plan.is_special(id)
    }

    /// The special tokens by role.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of the BOS token.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Whether [`encode`](Self::encode) with `add_special` begins with BOS.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The id of the padding token.
    #[must_use]
    pub fn pad_id(&self) -> Option<u32> {
        self.special
            .pad
            .as_deref()
            .and_then(|token| self.token_to_id(token))
    }

    /// The tokens that end an answer, in order of discovery.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Whether the token ends an answer.
    #[must_use]
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.contains(&id)
    }

    /// Adds tokens that end an answer, as `eos_token_id` of a model's configuration lists them.
    pub fn add_eos_ids(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos_ids.contains(&id) {
                self.eos_ids.push(id);
            }
        }
    }

    /// The chat templates by name.
    #[must_use]
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.templates
    }

    /// Renders a conversation with the template that fits `options`, special tokens filled in.
    ///
    /// # Errors
    /// [`TextError::MissingTemplate`], and those of [`ChatTemplate::render`](crate::chat::ChatTemplate::render).
    pub fn apply_chat_template(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String> {
        self.templates
            .select(options)?
            .with_special_tokens(&self.special)
            .render(messages, options)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .field("adds_bos", &self.adds_bos)
            .field("eos_ids", &self.eos_ids)
            .field("templates", &self.templates.names().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The tokenizer of a folder, and what the files beside it say.
fn read_backend(folder: &Path) -> Result<(Backend, FolderConfig)> {
    let mut config = FolderConfig::read(folder)?;
    let path = folder.join("tokenizer.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let backend = parse_backend(&bytes, &path.display().to_string())?;
            return Ok((backend, config));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(TextError::Io { path, source }),
    }
    let path = folder.join("tokenizer.model");
    if path.is_file() {
        let model = sentencepiece::read(&path)?;
        config.special.fill(model.special);
        config.add_bos = config.add_bos.or(Some(config.special.bos.is_some()));
        return Ok((model.backend, config));
    }
    let (path, pre) = tiktoken::find(folder).ok_or_else(|| TextError::MissingTokenizer {
        folder: folder.to_owned(),
    })?;
    let mut backend = tiktoken::read(&path, pre)?;
    if config.added_tokens.is_empty() && pre == "qwen2" {
        for (role, token) in tiktoken::QWEN_SPECIAL {
            add(
                &mut backend,
                AddedToken::from(*token, true).normalized(false),
            )?;
            if *role == "eos" {
                config
                    .special
                    .eos
                    .get_or_insert_with(|| (*token).to_owned());
            }
        }
    }
    // Ids without a name of their own are reserved ones, so that the others keep theirs.
    let last = config.added_tokens.last().map_or(0, |(id, _)| *id);
    let first = u32::try_from(backend.get_vocab_size(true)).unwrap_or(u32::MAX);
    if last.saturating_sub(first) > MOST_ADDED {
        return Err(TextError::format(
            "tokenizer_config.json",
            format!("added_tokens_decoder `{last}`: the vocabulary ends at {first}"),
        ));
    }
    for id in first..=last {
        let named = config.added_tokens.iter().find(|(known, _)| *known == id);
        let token = named.map_or_else(
            || AddedToken::from(format!("<|reserved_token_{id}|>"), true).normalized(false),
            |(_, token)| token.clone(),
        );
        add(&mut backend, token)?;
    }
    Ok((backend, config))
}

/// More tokens than any tokenizer adds to its vocabulary.
const MOST_ADDED: u32 = 100_000;

/// The parser indexes by lengths that a malformed vocabulary can make inconsistent, so a panic in
/// it means bad input, not a broken invariant of ours.
fn parse_backend(bytes: &[u8], what: &str) -> Result<Backend> {
    match catch_unwind(AssertUnwindSafe(|| Backend::from_bytes(bytes))) {
        Ok(Ok(backend)) => Ok(backend),
        Ok(Err(error)) => Err(TextError::format(what, error)),
        Err(_) => Err(TextError::format(
            what,
            "the vocabulary and its merges contradict each other",
        )),
    }
}

/// Makes every named special token a special token of the backend too.
fn add_named_special(
    backend: &mut Backend,
    special: &SpecialTokens,
    further: &[String],
) -> Result<()> {
    let known: Vec<String> = backend
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    let named = special.named().map(|(_, token)| token);
    for token in named.chain(further.iter().map(String::as_str)) {
        if !token.is_empty() && !known.iter().any(|known| known == token) {
            add(backend, AddedToken::from(token, true).normalized(false))?;
        }
    }
    Ok(())
}

fn add(backend: &mut Backend, token: AddedToken) -> Result<()> {
    let what = format!("added token `{}`", token.content);
    let added = if token.special {
        backend.add_special_tokens([token])
    } else {
        backend.add_tokens([token])
    };
    added
        .map(drop)
        .map_err(|error| TextError::format(what, error))
}

/// Frames every text with BOS and EOS as the two flags say.
fn set_bos_eos(
    backend: &mut Backend,
    special: &SpecialTokens,
    (bos, eos): (bool, bool),
) -> Result<()> {
    let bos = special.bos.as_ref().filter(|_| bos);
    let eos = special.eos.as_ref().filter(|_| eos);
    if bos.is_none() && eos.is_none() {
        backend.with_post_processor(None::<TemplateProcessing>);
        return Ok(());
    }
    let fail = |error: String| TextError::format("bos_token and eos_token", error);
    let mut single = Vec::new();
    let mut tokens: Vec<(String, u32)> = Vec::new();
    let mut mark = |token: &String, single: &mut Vec<String>| {
        let id = backend
            .token_to_id(token)
            .ok_or_else(|| fail(format!("`{token}` is not in the vocabulary")))?;
        single.push(token.clone());
        if !tokens.iter().any(|(known, _)| known == token) {
            tokens.push((token.clone(), id));
        }
        Ok(())
    };
    if let Some(bos) = bos {
        mark(bos, &mut single)?;
    }
    single.push("$A".to_owned());
    if let Some(eos) = eos {
        mark(eos, &mut single)?;
    }
    let template = TemplateProcessingBuilder::default()
        .try_single(single)
        .map_err(fail)?
        .special_tokens(tokens)
        .build()
        .map_err(|error| fail(error.to_string()))?;
    backend.with_post_processor(Some(template));
    Ok(())
}
