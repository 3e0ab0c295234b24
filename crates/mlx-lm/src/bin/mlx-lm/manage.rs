//! `mlx-lm manage`: models in the local cache.

use std::io::{BufRead, IsTerminal, stdin};

use clap::{Args, Subcommand};
use mlx_lm::cli::{Failure, note, write_out};
use mlx_lm::hub::{CachedModel, HubCache, HubId};
use serde_json::{Value, json};

/// Arguments of `mlx-lm manage`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm manage list
  mlx-lm manage list qwen --json
  mlx-lm manage remove mlx-community/Qwen3-0.6B-4bit --yes")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List models with their sizes
    #[command(after_help = "Examples:\n  mlx-lm manage list\n  mlx-lm manage list qwen --json")]
    List {
        /// Only models whose name contains this
        #[arg(value_name = "PATTERN", default_value = "")]
        pattern: String,
        /// Write one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove a model with all its revisions
    #[command(after_help = "Examples:\n  mlx-lm manage remove org/name --yes")]
    Remove {
        /// Hub id
        #[arg(value_name = "ID")]
        id: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cache = HubCache::from_env()
        .ok_or_else(|| Failure::new("no folder for the Hub's cache is known", "set HF_HOME"))?;
    match &arguments.action {
        Action::List { pattern, json } => list(&cache, pattern, *json),
        Action::Remove { id, yes } => remove(&cache, id, *yes),
    }
}

fn list(cache: &HubCache, pattern: &str, json: bool) -> Result<(), Failure> {
    let models = cache
        .models()
        .map_err(|source| Failure::file("read", cache.root(), &source))?;
    let pattern = pattern.to_lowercase();
    let models: Vec<CachedModel> = models
        .into_iter()
        .filter(|model| model.id.to_lowercase().contains(&pattern))
        .collect();
    let total: u64 = models.iter().map(|model| model.size).sum();
    if json {
        let list: Vec<Value> = models.iter().map(record).collect();
        let cache = cache.root().display().to_string();
        let record = json!({ "cache": cache, "bytes": total, "models": list });
        return write_out(&format!("{record}\n"));
    }
    let width = models.iter().map(|model| model.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for model in &models {
        let complete = model.revisions.iter().any(|revision| revision.complete);
        let refs: Vec<&str> = model
            .revisions
            .iter()
            .flat_map(|revision| revision.refs.iter().map(String::as_str))
            .collect();
        let note = if complete { "" } else { "  incomplete" };
        text.push_str(&format!(
            "{:<width$}  {:>10}  {}{note}\n",
            model.id,
            bytes(model.size),
            refs.join(" ")
        ));
    }
    text.push_str(&format!("{} in {}\n", bytes(total), cache.root().display()));
    write_out(&text)
}

fn record(model: &CachedModel) -> Value {
    let revisions = model.revisions.iter().map(|revision| {
        json!({
            "commit": revision.commit,
            "refs": revision.refs,
            "path": revision.path.display().to_string(),
            "complete": revision.complete,
        })
    });
    json!({
        "id": model.id,
        "bytes": model.size,
        "path": model.path.display().to_string(),
        "revisions": revisions.collect::<Vec<Value>>(),
    })
}

fn remove(cache: &HubCache, name: &str, yes: bool) -> Result<(), Failure> {
    let absent = || {
        Failure::new(
            format!("`{name}` is not in the cache"),
            "`mlx-lm manage list` shows what is",
        )
    };
    let id = HubId::parse(name).ok_or_else(absent)?;
    let unreadable = |source| Failure::file("read", cache.root(), &source);
    let models = cache.models().map_err(unreadable)?;
    let model = models.iter().find(|model| model.id == id.repository());
    let model = model.ok_or_else(absent)?;
    if !yes && !confirmed(model)? {
        note("Nothing was removed.\n");
        return Ok(());
    }
    let freed = cache
        .remove(&id)
        .map_err(|source| Failure::file("remove", &model.path, &source))?;
    write_out(&format!("{} freed\n", bytes(freed.unwrap_or(0))))
}

fn confirmed(model: &CachedModel) -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody is there to confirm",
            "add --yes to remove without asking",
        ));
    }
    note(&format!(
        "Remove {} ({})? [y/N] ",
        model.id,
        bytes(model.size)
    ));
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer);
    read.map_err(|source| Failure::new(format!("read the answer: {source}"), "add --yes"))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A number of bytes as people read it.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while count / scale >= 1000 && unit + 1 < units.len() {
        unit += 1;
        scale *= 1000;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    let tenths = count / (scale / 10).max(1);
    match unit {
        0 => format!("{count} B"),
        _ => format!("{}.{} {name}", tenths / 10, tenths % 10),
    }
}
