//! `mlx-embed similarity`: texts ranked by how alike they are to a query.

use std::path::PathBuf;

use clap::Args;
use mlx_embed::Similarity;
use serde_json::{Value, json};

use mlx_lm::cli::{Failure, interrupt_flag, write_out};

use super::model::ModelArguments;
use super::texts::Texts;

/// Arguments of `mlx-embed similarity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-embed similarity \"Who eats?\" \"A man is eating food.\" \"The girl is carrying a baby.\"
  mlx-embed similarity \"Who eats?\" --file sentences.txt --top-k 3 --json
  mlx-embed similarity \"Who eats?\" --metric dot < sentences.txt

The query gets the model's prompt `query` and the candidates its prompt `document`,
`passage` or `corpus`, where the model has them.")]
pub(crate) struct Arguments {
    /// What to compare with
    #[arg(value_name = "QUERY")]
    query: String,
    /// The texts to rank
    #[arg(value_name = "CANDIDATE", conflicts_with = "file")]
    candidates: Vec<String>,
    /// Take each line of a file as one candidate; `-` is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Show only the best
    #[arg(short = 'k', long, value_name = "K")]
    top_k: Option<usize>,
    /// cosine, dot, euclidean or manhattan [default: the model's own, else cosine]
    #[arg(long, value_name = "NAME")]
    metric: Option<Similarity>,
    /// Which of the model's prompts precedes the query
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,
    /// Which of the model's prompts precedes each candidate
    #[arg(long, value_name = "NAME")]
    candidate_prompt_name: Option<String>,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// A candidate with its score and its place in the input.
struct Ranked {
    score: f32,
    index: usize,
    text: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let candidates = Texts::open(arguments.candidates, arguments.file.as_deref())?.rest()?;
    if candidates.is_empty() {
        return Err(Failure::usage(
            "there is no candidate",
            "give texts after the query, with --file, or as lines on standard input",
        ));
    }
    let cancel = interrupt_flag();
    let model = arguments.model.load(&cancel)?;
    let mut options = arguments.model.options(&cancel);
    options.prompt_name = arguments.prompt_name;
    let query = model.encode_query(&[&arguments.query], options)?;
    let mut options = arguments.model.options(&cancel);
    options.prompt_name = arguments.candidate_prompt_name;
    let documents = model.encode_document(&candidates, options)?;

    let metric = arguments.metric.unwrap_or_else(|| model.similarity());
    let scores = metric.matrix(&query, &documents)?.to_vec::<f32>()?;
    let mut ranked: Vec<Ranked> = scores
        .into_iter()
        .zip(candidates)
        .enumerate()
        .map(|(index, (score, text))| Ranked { score, index, text })
        .collect();
    // Stable, so that equals keep the order of the input.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(arguments.top_k.unwrap_or(usize::MAX));

    let text = match arguments.json {
        true => format!("{}\n", record(&arguments.query, metric, &ranked)),
        false => ranked.iter().map(line).collect(),
    };
    write_out(&text)
}

fn line(ranked: &Ranked) -> String {
    format!(
        "{:8.4}  {}\n",
        ranked.score,
        ranked.text.replace(['\n', '\r'], " ")
    )
}

fn record(query: &str, metric: Similarity, ranked: &[Ranked]) -> Value {
    let results: Vec<Value> = ranked
        .iter()
        .map(|one| json!({ "index": one.index, "score": one.score, "text": one.text }))
        .collect();
    json!({ "query": query, "metric": metric.name(), "results": results })
}
