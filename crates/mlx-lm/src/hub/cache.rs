//! Models that the Hugging Face tools have already downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::id::HubId;

/// The folder of a model `org/name` in the local Hugging Face cache, at a
/// branch, tag or commit, or `None` if it is not there.
///
/// Honours `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` and
/// `XDG_CACHE_HOME`, in this order.
#[must_use]
pub fn cached_snapshot(id: &str, revision: &str) -> Option<PathBuf> {
    let id = HubId::parse(id)?.at(revision)?;
    HubCache::from_env()?.snapshot(&id)
}

/// The cache that all tools of the Hub share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedModel {
    /// `org/name`.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes on disk, files that several revisions share counted once, unfinished ones too.
    pub size: u64,
    /// Its revisions, by commit.
    pub revisions: Vec<CachedRevision>,
}

/// One commit of a model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedRevision {
    /// The commit's hash.
    pub commit: String,
    /// Branches and tags that point at it.
    pub refs: Vec<String>,
    /// The folder with its files.
    pub path: PathBuf,
    /// Whether all files are there that loading needs.
    pub complete: bool,
}

impl HubCache {
    /// The cache that the environment names; `None` if not even a home folder is known.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let folder = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home().map(|home| home.join("hub")))
            .map(Self::new)
    }

    /// A cache in a folder, which need not exist.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model, or the GGUF file that the id names; `None` unless all is there that
    /// loading needs.
    #[must_use]
    pub fn snapshot(&self, id: &HubId) -> Option<PathBuf> {
        let repository = self.repository(id.repository());
        let commit = fs::read_to_string(repository.join("refs").join(id.revision()));
        let commit =
            commit.map_or_else(|_| id.revision().to_owned(), |text| text.trim().to_owned());
        if !super::id::is_file(&commit) {
            return None;
        }
        let snapshot = repository.join("snapshots").join(commit);
        match id.file() {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()),
            None => is_complete(&snapshot).then_some(snapshot),
        }
    }

    /// Every model, by name.
    ///
    /// # Errors
    /// If the cache or a model's folder cannot be read; an absent cache is empty.
    pub fn models(&self) -> io::Result<Vec<CachedModel>> {
        let mut models = Vec::new();
        for (name, path) in entries(&self.root)? {
            let Some(id) = name.strip_prefix("models--") else {
                continue;
            };
            let revisions = revisions(&path)?;
            models.push(CachedModel {
                id: id.replacen("--", "/", 1),
                size: size(&path)?,
                path,
                revisions,
            });
        }
        models.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(models)
    }

    /// Removes a model with all its revisions; returns the bytes that are free now, or `None` if
    /// it was not there.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self, id: &HubId) -> io::Result<Option<u64>> {
        let folder = self.repository(id.repository());
        if !folder.is_dir() {
            return Ok(None);
        }
        let size = size(&folder)?;
        // Renamed first: whoever looks meanwhile sees a whole model or none.
        let doomed = self.root.join(format!(".removing-{}", std::process::id()));
        fs::rename(&folder, &doomed)?;
        fs::remove_dir_all(&doomed)?;
        let locks = self.locks(id.repository());
        if locks.is_dir() {
            fs::remove_dir_all(locks)?;
        }
        Ok(Some(size))
    }

    pub(super) fn repository(&self, repository: &str) -> PathBuf {
        self.root
            .join(format!("models--{}", repository.replace('/', "--")))
    }

    pub(super) fn locks(&self, repository: &str) -> PathBuf {
        self.root
            .join(".locks")
            .join(format!("models--{}", repository.replace('/', "--")))
    }
}

/// `HF_HOME`, or where it is by default.
pub(super) fn home() -> Option<PathBuf> {
    let folder = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("HF_HOME")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache").join("huggingface")))
}

/// Whether a snapshot holds a configuration and every file that its index of weights names.
///
/// Downloads of ours write the configuration last, other tools in any order.
fn is_complete(snapshot: &Path) -> bool {
    if !snapshot.join("config.json").is_file() {
        return false;
    }
    let index = fs::read(snapshot.join("model.safetensors.index.json")).ok();
    let index: Option<Value> = index.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let files = index
        .as_ref()
        .and_then(|index| index.get("weight_map")?.as_object());
    let mut files = files
        .into_iter()
        .flat_map(|map| map.values().filter_map(Value::as_str));
    files.all(|file| snapshot.join(file).is_file())
}

fn revisions(repository: &Path) -> io::Result<Vec<CachedRevision>> {
    let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    collect_refs(&repository.join("refs"), "", &mut refs)?;
    let mut revisions = Vec::new();
    for (commit, path) in entries(&repository.join("snapshots"))? {
        revisions.push(CachedRevision {
            refs: refs.remove(&commit).unwrap_or_default(),
            complete: is_complete(&path) || has_gguf(&path)?,
            commit,
            path,
        });
    }
    revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
    Ok(revisions)
}

fn has_gguf(snapshot: &Path) -> io::Result<bool> {
    let files = entries(snapshot)?;
    Ok(files
        .iter()
        .any(|(name, path)| name.to_lowercase().ends_with(".gguf") && path.is_file()))
}

/// Branches with a slash are files in folders.
fn collect_refs(
    folder: &Path,
    prefix: &str,
    refs: &mut BTreeMap<String, Vec<String>>,
) -> io::Result<()> {
    for (name, path) in entries(folder)? {
        if path.is_dir() {
            collect_refs(&path, &format!("{prefix}{name}/"), refs)?;
        } else {
            let commit = fs::read_to_string(&path)?.trim().to_owned();
            refs.entry(commit)
                .or_default()
                .push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// Names and paths in a folder; none if it does not exist.
fn entries(folder: &Path) -> io::Result<BTreeSet<(String, PathBuf)>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        read => read?,
    };
    read.map(|entry| {
        let entry = entry?;
        Ok((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ))
    })
    .collect()
}

/// Bytes below a folder; links count nothing.
fn size(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for (_, path) in entries(folder)? {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            total += size(&path)?;
        } else if metadata.is_file() {
            total += metadata.len();
        }
    }
    Ok(total)
}
