//! How tokens are chosen.

use clap::Args;
use mlx_lm::GenerateOptions;
use mlx_lm::cli::Failure;
use mlx_lm::sample::{Dry, Mirostat};
use mlx_lm::tokenizer::Tokenizer;

/// What the makers of DRY let end a repetition.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Arguments that shape an answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArguments {
    /// Randomness; 0 always takes the most likely token
    #[arg(
        long,
        visible_alias = "temperature",
        value_name = "T",
        allow_negative_numbers = true
    )]
    temp: Option<f32>,
    /// Keep the most likely tokens up to this probability in all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Keep the tokens whose surprise is nearest to the expected one, up to this probability in all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Keep tokens within so many standard deviations of the largest logit; 0 keeps all
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    top_n_sigma: Option<f32>,
    /// How likely it is, at each token, that the top choices but the last are excluded (XTC)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// How likely a token must be to be such a top choice, 0 to 0.5
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// The least number of tokens that min-p and typical-p leave
    #[arg(long, value_name = "N")]
    min_tokens_to_keep: Option<usize>,
    /// Hold the surprise of the text at a level, by version 1 or 2 of mirostat
    #[arg(
        long,
        value_name = "VERSION",
        value_parser = clap::value_parser!(u8).range(1..=2),
        conflicts_with_all = ["top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "xtc_probability"]
    )]
    mirostat: Option<u8>,
    /// The surprise that mirostat aims at, in bits
    #[arg(
        long,
        visible_alias = "mirostat-ent",
        value_name = "BITS",
        requires = "mirostat",
        default_value_t = 5.0,
        allow_negative_numbers = true
    )]
    mirostat_tau: f32,
    /// How fast mirostat follows
    #[arg(
        long,
        visible_alias = "mirostat-lr",
        value_name = "X",
        requires = "mirostat",
        default_value_t = 0.1,
        allow_negative_numbers = true
    )]
    mirostat_eta: f32,
    /// Make recent tokens less likely; 1 does nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// How many recent tokens that penalty looks at
    #[arg(long, value_name = "N")]
    repetition_context_size: Option<usize>,
    /// Subtract this from the logits of recent tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// How many recent tokens that penalty looks at
    #[arg(long, value_name = "N")]
    presence_context_size: Option<usize>,
    /// Subtract this from the logits of recent tokens for each time that they occur
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// How many recent tokens that penalty looks at
    #[arg(long, value_name = "N")]
    frequency_context_size: Option<usize>,
    /// Make it less likely that whole sequences repeat (DRY); 0.8 is customary
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dry_multiplier: Option<f32>,
    /// How DRY grows with each further token of a repetition
    #[arg(
        long,
        value_name = "X",
        requires = "dry_multiplier",
        default_value_t = 1.75,
        allow_negative_numbers = true
    )]
    dry_base: f32,
    /// Repetitions shorter than this are free
    #[arg(
        long,
        value_name = "N",
        requires = "dry_multiplier",
        default_value_t = 2
    )]
    dry_allowed_length: usize,
    /// How many recent tokens DRY searches; 0 searches all
    #[arg(
        long,
        value_name = "N",
        requires = "dry_multiplier",
        default_value_t = 0
    )]
    dry_penalty_last_n: usize,
    /// Text across which DRY sees no repetition; may be given several times [default: line break : " *]
    #[arg(long, value_name = "TEXT", requires = "dry_multiplier")]
    dry_sequence_breaker: Vec<String>,
    /// Add to the logit of one token, given by its id or its text; `-inf` forbids it
    #[arg(long, value_name = "TOKEN=BIAS")]
    logit_bias: Vec<String>,
    /// Repeat the same random choices
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArguments {
    /// What is asked for, in tokens of the model's vocabulary.
    pub(crate) fn options(&self, tokenizer: &Tokenizer) -> Result<GenerateOptions, Failure> {
        let mirostat = self.mirostat.map(|version| match version {
            1 => Mirostat::v1(self.mirostat_tau, self.mirostat_eta),
            _ => Mirostat::v2(self.mirostat_tau, self.mirostat_eta),
        });
        let spared = match self.xtc_probability {
            Some(_) => {
                let mut spared = tokenizer.encode("\n", false)?;
                spared.extend(tokenizer.eos_ids());
                Some(spared)
            }
            None => None,
        };
        Ok(GenerateOptions::default()
            .temperature(self.temp)
            .top_p(self.top_p)
            .top_k(self.top_k)
            .min_p(self.min_p)
            .typical_p(self.typical_p)
            .top_n_sigma(self.top_n_sigma)
            .xtc_probability(self.xtc_probability)
            .xtc_threshold(self.xtc_threshold)
            .xtc_spared(spared)
            .min_tokens_to_keep(self.min_tokens_to_keep)
            .mirostat(mirostat)
            .repetition_penalty(self.repetition_penalty)
            .repetition_context(self.repetition_context_size)
            .presence_penalty(self.presence_penalty)
            .presence_context(self.presence_context_size)
            .frequency_penalty(self.frequency_penalty)
            .frequency_context(self.frequency_context_size)
            .dry(self.dry(tokenizer)?)
            .logit_bias(self.biases(tokenizer)?)
            .seed(self.seed)
            .stop(self.stop.clone()))
    }

    fn dry(&self, tokenizer: &Tokenizer) -> Result<Option<Dry>, Failure> {
        let Some(multiplier) = self.dry_multiplier else {
            return Ok(None);
        };
        let given: Vec<&str> = self
            .dry_sequence_breaker
            .iter()
            .map(String::as_str)
            .collect();
        let breakers = match given.as_slice() {
            [] => &BREAKERS[..],
            given => given,
        };
        let mut tokens = Vec::new();
        for breaker in breakers {
            // What stands before the last token may be a mark of the word's beginning.
            tokens.extend(tokenizer.encode(breaker, false)?.last());
        }
        Ok(Some(
            Dry::new(multiplier)
                .base(self.dry_base)
                .allowed_length(self.dry_allowed_length)
                .range(self.dry_penalty_last_n)
                .breakers(tokens),
        ))
    }

    fn biases(&self, tokenizer: &Tokenizer) -> Result<Option<Vec<(u32, f32)>>, Failure> {
        if self.logit_bias.is_empty() {
            return Ok(None);
        }
        let read = |given: &String| {
            let bad = |what: &str| {
                Failure::usage(
                    format!("--logit-bias: `{given}` {what}"),
                    "give a token's id or its text, `=`, and a number: 13=-1.5 or ' Paris=-inf'",
                )
            };
            let (token, bias) = given.rsplit_once('=').ok_or_else(|| bad("has no `=`"))?;
            let bias: f32 = bias.parse().map_err(|_| bad("does not end in a number"))?;
            let known = |id: &u32| tokenizer.id_to_token(*id).is_some();
            if let Some(id) = token.parse().ok().filter(known) {
                return Ok((id, bias));
            }
            match tokenizer.encode(token, false)?.as_slice() {
                [only] => Ok((*only, bias)),
                _ => Err(bad("is not one token of this model")),
            }
        };
        self.logit_bias
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}
