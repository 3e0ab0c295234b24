//! `mlx-lm evaluate`: tasks from local files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, write_out};
use mlx_lm::evaluate::likelihood;
use mlx_lm::memory::MemoryBudget;
use mlx_lm::{CancelFlag, GenerateOptions, LoadedModel};
use serde_json::{Value, json};

use super::lines::{Record, bad, read_records};
use super::model::RunArguments;

/// Arguments of `mlx-lm evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm evaluate --task quiz.jsonl
  mlx-lm evaluate --model models/qwen3-0.6b --task arc.jsonl sums.jsonl --num-shots 2 --json
  mlx-lm evaluate --task sums.jsonl --apply-chat-template --limit 50

A task is a file with one JSON object a line, of one of two kinds:
  {\"question\": \"2 + 2 =\", \"choices\": [\"3\", \"4\"], \"answer\": 1}
      the choice that the model finds likeliest behind the question counts; `answer` is its index
      or its text. Reported are acc, and acc_norm, where likelihoods are divided by bytes.
  {\"prompt\": \"2 + 2 =\", \"answer\": \"4\", \"match\": \"exact\"}
      the model writes an answer; `answer` may be a list. `match` is exact (the default), contains,
      or number (the last number of the text). Optional: \"max_tokens\", \"stop\".
Choices are joined to the question with a space, unless one of them begins or ends with one.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// Files with tasks
    #[arg(short, long, value_name = "FILE", num_args = 1.., required = true)]
    task: Vec<PathBuf>,
    /// Use the first so many lines as solved examples before each question
    #[arg(long, default_value_t = 0, value_name = "N")]
    num_shots: usize,
    /// At most so many questions of each task
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Put questions through the model's chat template
    #[arg(long)]
    apply_chat_template: bool,
    /// Tokens that an answer may have
    #[arg(short, long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// One question of a task.
#[derive(Debug)]
enum Question {
    Choice {
        question: String,
        choices: Vec<String>,
        answer: usize,
    },
    Writing {
        prompt: String,
        answers: Vec<String>,
        matching: Matching,
        max_tokens: Option<usize>,
        stop: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    Exact,
    Contains,
    Number,
}

/// Right answers of one kind.
#[derive(Debug, Default)]
struct Score {
    questions: usize,
    right: usize,
    right_by_length: usize,
    choices: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    for path in &arguments.task {
        tasks.push((path, read_task(path)?));
    }
    let cancel = interrupt_flag();
    let model = arguments
        .model
        .load(MemoryBudget::default(), arguments.quiet, &cancel)?;
    let runner = Runner {
        arguments,
        model: &model,
        cancel: &cancel,
    };
    let started = Instant::now();
    let mut results = Vec::new();
    for (path, questions) in &tasks {
        results.push((path.as_path(), runner.task(path, questions)?));
    }
    let seconds = started.elapsed().as_secs_f64();
    let text = match arguments.json {
        true => {
            let tasks: Vec<Value> = results
                .iter()
                .map(|(path, score)| score.record(path))
                .collect();
            let model = model.path().display().to_string();
            let record = json!({
                "model": model, "num_shots": arguments.num_shots, "tasks": tasks, "seconds": seconds
            });
            format!("{record}\n")
        }
        false => table(&results),
    };
    write_out(&text)
}

fn table(results: &[(&Path, Score)]) -> String {
    let name = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let width = results.iter().map(|(path, _)| name(path).len()).max();
    let width = width.unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$} {:>9} {:<12} {:>7} {:>7}\n",
        "task", "questions", "metric", "value", "±"
    );
    for (path, score) in results {
        for (metric, right) in score.metrics() {
            let (value, error) = score.rate(right);
            text.push_str(&format!(
                "{:<width$} {:>9} {metric:<12} {value:>7.4} {error:>7.4}\n",
                name(path),
                score.questions
            ));
        }
    }
    text
}

impl Score {
    fn metrics(&self) -> Vec<(&'static str, usize)> {
        match self.choices {
            true => vec![("acc", self.right), ("acc_norm", self.right_by_length)],
            false => vec![("exact_match", self.right)],
        }
    }

    /// The share of right answers and its standard error.
    fn rate(&self, right: usize) -> (f64, f64) {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let count = number(self.questions).max(1.0);
        let share = number(right) / count;
        (
            share,
            (share * (1.0 - share) / (count - 1.0).max(1.0)).sqrt(),
        )
    }

    fn record(&self, path: &Path) -> Value {
        let mut record = json!({ "task": path.display().to_string(), "questions": self.questions });
        for (metric, right) in self.metrics() {
            let (value, error) = self.rate(right);
            if let Some(map) = record.as_object_mut() {
                map.insert(metric.to_owned(), json!(value));
                map.insert(format!("{metric}_stderr"), json!(error));
            }
        }
        record
    }
}

struct Runner<'a> {
    arguments: &'a Arguments,
    model: &'a LoadedModel,
    cancel: &'a CancelFlag,
}

impl Runner<'_> {
    fn task(&self, path: &Path, questions: &[Question]) -> Result<Score, Failure> {
        let shots = self.arguments.num_shots.min(questions.len());
        let (examples, asked) = questions.split_at(shots);
        if asked.is_empty() {
            return Err(Failure::usage(
                format!("{} has no question left to ask", path.display()),
                "use fewer lines as examples with --num-shots",
            ));
        }
        let examples: String = examples
            .iter()
            .map(|example| format!("{}\n\n", example.solved()))
            .collect();
        let limit = self.arguments.limit.unwrap_or(usize::MAX);
        let total = asked.len().min(limit);
        let mut score = Score::default();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut progress = Progress::new(name, Unit::Items, self.arguments.quiet);
        for (done, question) in asked.iter().take(limit).enumerate() {
            progress.set(done, total);
            score.questions += 1;
            match question {
                Question::Choice {
                    question,
                    choices,
                    answer,
                } => {
                    score.choices = true;
                    let (best, by_length) =
                        self.choose(&format!("{examples}{question}"), choices)?;
                    score.right += usize::from(best == *answer);
                    score.right_by_length += usize::from(by_length == *answer);
                }
                Question::Writing {
                    prompt,
                    answers,
                    matching,
                    max_tokens,
                    stop,
                } => {
                    let prompt = format!("{examples}{prompt}");
                    let options = GenerateOptions::default()
                        .max_tokens(max_tokens.unwrap_or(self.arguments.max_tokens))
                        .temperature(Some(0.0))
                        .stop(stop.clone())
                        .cancel(self.cancel.clone());
                    let tokens = self.tokens(&prompt)?;
                    let text = self.model.generate_tokens(&tokens, &options)?.text()?;
                    let right = answers.iter().any(|answer| matching.holds(&text, answer));
                    score.right += usize::from(right);
                }
            }
        }
        Ok(score)
    }

    /// The likeliest choice, as it is and by its length in bytes.
    fn choose(&self, question: &str, choices: &[String]) -> Result<(usize, usize), Failure> {
        let context = self.tokens(question)?;
        let templated = self.arguments.apply_chat_template;
        let mut best = (f64::NEG_INFINITY, 0);
        let mut best_by_length = (f64::NEG_INFINITY, 0);
        for (index, choice) in choices.iter().enumerate() {
            let joined = match templated {
                true => None,
                false => Some(join(question, choice)),
            };
            // Joined text may be cut into tokens otherwise than its parts.
            let (tokens, count) = match joined {
                Some(text) => {
                    let tokens = self.tokens(&text)?;
                    let common = common(&context, &tokens);
                    let count = tokens.len() - common;
                    (tokens, count)
                }
                None => {
                    let answer = self.model.tokenizer().encode(choice, false)?;
                    let count = answer.len();
                    ([context.clone(), answer].concat(), count)
                }
            };
            let sum = likelihood(self.model.model(), &tokens, self.cancel)?.tail(count);
            let bytes = f64::from(u32::try_from(choice.len().max(1)).unwrap_or(u32::MAX));
            if sum > best.0 {
                best = (sum, index);
            }
            if sum / bytes > best_by_length.0 {
                best_by_length = (sum / bytes, index);
            }
        }
        Ok((best.1, best_by_length.1))
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let tokenizer = self.model.tokenizer();
        if self.arguments.apply_chat_template {
            let prompt = tokenizer.apply_chat_template(
                &[Message::user(text)],
                &mlx_lm::chat::RenderOptions::default(),
            )?;
            return Ok(tokenizer.encode(&prompt, false)?);
        }
        Ok(tokenizer.encode(text, true)?)
    }
}

/// How many tokens two sequences begin with in common; never all of the second.
fn common(a: &[u32], b: &[u32]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    same.min(b.len().saturating_sub(1))
}

fn join(question: &str, answer: &str) -> String {
    let spaced = question.ends_with(char::is_whitespace) || answer.starts_with(char::is_whitespace);
    match spaced {
        true => format!("{question}{answer}"),
        false => format!("{question} {answer}"),
    }
}

impl Question {
    /// The question with its answer, as an example.
    fn solved(&self) -> String {
        match self {
            Self::Choice {
                question,
                choices,
                answer,
            } => join(question, choices.get(*answer).map_or("", String::as_str)),
            Self::Writing {
                prompt, answers, ..
            } => join(prompt, answers.first().map_or("", String::as_str)),
        }
    }
}

impl Matching {
    fn holds(self, text: &str, answer: &str) -> bool {
        let plain = |text: &str| {
            let words: Vec<String> = text
                .to_lowercase()
                .split_whitespace()
                .map(|word| {
                    word.trim_matches(|c: char| c.is_ascii_punctuation())
                        .to_owned()
                })
                .filter(|word| !word.is_empty())
                .collect();
            words.join(" ")
        };
        match self {
            Self::Exact => plain(text) == plain(answer),
            Self::Contains => plain(text).contains(&plain(answer)),
            Self::Number => match (last_number(text), last_number(answer)) {
                (Some(found), Some(wanted)) => found == wanted,
                _ => false,
            },
        }
    }
}

/// The last number of a text, thousands separators left out.
fn last_number(text: &str) -> Option<f64> {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-');
    let mut numbers = text.split(|c: char| !is_part(c)).filter_map(|word| {
        let word = word.replace(',', "");
        let word = word.trim_end_matches(['.', '-']);
        word.rfind('-')
            .map_or(word, |at| word.get(at..).unwrap_or(word))
            .parse::<f64>()
            .ok()
    });
    numbers.next_back()
}

fn read_task(path: &Path) -> Result<Vec<Question>, Failure> {
    let questions: Vec<Question> = read_records(path)?
        .iter()
        .map(|record| question(record).map_err(|what| bad(path, record.line, &what)))
        .collect::<Result<_, _>>()?;
    if questions.is_empty() {
        return Err(Failure::usage(
            format!("{} has no question", path.display()),
            "each line is one JSON object",
        ));
    }
    Ok(questions)
}

fn question(record: &Record) -> Result<Question, String> {
    let value = &record.value;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let answer = value.get("answer").ok_or("has no `answer`")?;
    if let Some(choices) = value.get("choices") {
        let choices = strings(choices).ok_or("has `choices` that are not a list of strings")?;
        let question = text("question").or_else(|| text("context"));
        let question = question.ok_or("has no string `question`")?;
        let index = match answer {
            Value::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
            Value::String(answer) => choices.iter().position(|choice| choice == answer),
            _ => None,
        };
        let answer = index
            .filter(|&index| index < choices.len())
            .ok_or("has an `answer` that is none of its choices")?;
        return Ok(Question::Choice {
            question,
            choices,
            answer,
        });
    }
    let prompt = text("prompt").or_else(|| text("question"));
    let matching = match text("match").as_deref() {
        None | Some("exact") => Matching::Exact,
        Some("contains") => Matching::Contains,
        Some("number") => Matching::Number,
        Some(other) => return Err(format!("has the unknown `match` `{other}`")),
    };
    let answers = match answer {
        Value::Number(number) => Some(vec![number.to_string()]),
        answer => strings(answer),
    };
    Ok(Question::Writing {
        prompt: prompt.ok_or("has neither `choices` nor a string `prompt`")?,
        answers: answers.ok_or("has an `answer` that is no text")?,
        matching,
        max_tokens: value
            .get("max_tokens")
            .and_then(Value::as_u64)
            .and_then(|count| usize::try_from(count).ok()),
        stop: value.get("stop").and_then(strings).unwrap_or_default(),
    })
}

/// A string, or a list of them.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) if !list.is_empty() => list
            .iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_compared_as_people_would() {
        assert!(Matching::Exact.holds(" Paris.\n", "paris"));
        assert!(!Matching::Exact.holds("Paris, France", "paris"));
        assert!(Matching::Contains.holds("It is Paris, of course", "paris"));
        assert!(Matching::Number.holds("so 3 + 4 = 7. The answer is $1,234.50.", "1234.5"));
        assert!(Matching::Number.holds("-5", "-5"));
        assert!(!Matching::Number.holds("none", "5"));
    }
}
