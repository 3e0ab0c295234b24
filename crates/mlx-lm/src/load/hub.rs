//! Models that the Hugging Face tools have already downloaded.

use std::env;
use std::fs;
use std::path::PathBuf;

/// The folder of a model `org/name` in the local Hugging Face cache, at a
/// branch, tag or commit, or `None` if it is not there.
///
/// Honours `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` and
/// `XDG_CACHE_HOME`, in this order.
#[must_use]
pub fn cached_snapshot(id: &str, revision: &str) -> Option<PathBuf> {
    let is_id = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let mut parts = id.split('/');
    let valid = id.split('/').all(is_id) && (1..=2).contains(&id.split('/').count());
    if !valid || parts.any(|part| part == "..") {
        return None;
    }
    let repository = hub_cache()?.join(format!("models--{}", id.replace('/', "--")));
    let commit = fs::read_to_string(repository.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = repository.join("snapshots").join(commit);
    snapshot.join("config.json").is_file().then_some(snapshot)
}

fn hub_cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache").join("huggingface").join("hub")))
}
