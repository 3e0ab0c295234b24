//! Asking the Hub.

use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::cache::{self, HubCache};
use super::download::{Download, Expected};
use super::error::HubError;
use super::files;
use super::id::{HubId, is_file};
use crate::generate::CancelFlag;

const ENDPOINT: &str = "https://huggingface.co";
/// Files fetched at a time: enough to fill a line, few enough to be polite.
const AT_A_TIME: usize = 4;
/// Redirects followed before giving up.
const REDIRECTS: usize = 8;

/// How far one file of a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubProgress {
    /// The file.
    pub file: String,
    /// Bytes that have arrived, in earlier attempts too.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes of all files of this download.
    pub all: u64,
}

/// A server that speaks the Hub's protocol, and the cache to fetch into.
///
/// ```no_run
/// use mlx_lm::hub::{Hub, HubId};
/// let id = HubId::parse("mlx-community/SmolLM3-3B-4bit").unwrap();
/// let folder = Hub::from_env()?.fetch(&id, &mut |step| println!("{step:?}"))?;
/// let model = mlx_lm::load(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Hub {
    pub(super) endpoint: String,
    pub(super) cache: HubCache,
    token: Option<String>,
    offline: bool,
    pub(super) patience: Duration,
    pub(super) cancel: CancelFlag,
    agent: Agent,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is nobody's business.
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// The Hub as the environment describes it: `HF_ENDPOINT`, `HF_TOKEN` or the token file
    /// (`HF_TOKEN_PATH`, `$HF_HOME/token`), `HF_HUB_OFFLINE`, and the variables of the cache.
    ///
    /// # Errors
    /// [`HubError::NoCache`].
    pub fn from_env() -> Result<Self, HubError> {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let flag = |name: &str| {
            text(name).is_some_and(|value| {
                matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on")
            })
        };
        let token_file = text("HF_TOKEN_PATH")
            .map(PathBuf::from)
            .or_else(|| cache::home().map(|home| home.join("token")));
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(token_file?).ok());
        let hub = Self::new(
            text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
            HubCache::from_env().ok_or(HubError::NoCache)?,
        );
        Ok(hub
            .token(token)
            .offline(flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE")))
    }

    /// A server by its address, with a cache to fetch into.
    pub fn new(endpoint: impl Into<String>, cache: HubCache) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed by hand: the token must not go to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A stalled transfer ends so, and is resumed.
            .timeout_recv_body(Some(Duration::from_secs(300)))
            .user_agent(concat!("mlx-lm/", env!("CARGO_PKG_VERSION"), "; rust"))
            .build()
            .new_agent();
        Self {
            endpoint: endpoint.into().trim_end_matches('/').to_owned(),
            cache,
            token: None,
            offline: false,
            patience: Duration::from_millis(500),
            cancel: CancelFlag::new(),
            agent,
        }
    }

    /// Sends a token with every request to the server itself.
    pub fn token(mut self, token: Option<String>) -> Self {
        self.token = token
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        self
    }

    /// Whether the network may not be used.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// How long to wait before the first further attempt; each later one waits twice as long.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Stops a fetch with [`HubError::Cancelled`] once the flag is raised. What has arrived stays.
    pub fn cancel(mut self, cancel: &CancelFlag) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// The cache that is fetched into.
    #[must_use]
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// The folder of a model, or the GGUF file that the id names, from the cache if it is there
    /// and else from the server.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn get(
        &self,
        id: &HubId,
        progress: &mut dyn FnMut(HubProgress),
    ) -> Result<PathBuf, HubError> {
        match self.cache.snapshot(id) {
            Some(path) => Ok(path),
            None => self.fetch(id, progress),
        }
    }

    /// Like [`get`](Self::get), but asks the server whether the revision has moved.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn fetch(
        &self,
        id: &HubId,
        progress: &mut dyn FnMut(HubProgress),
    ) -> Result<PathBuf, HubError> {
        if self.offline {
            return self
                .cache
                .snapshot(id)
                .ok_or_else(|| HubError::Offline { id: id.to_string() });
        }
        let repository = self.repository(id)?;
        let names = self.choose(id, &repository)?;
        let snapshot = self
            .cache
            .repository(id.repository())
            .join("snapshots")
            .join(&repository.sha);
        let downloads = repository.downloads(self, id, &names);
        self.run(&downloads, progress)?;
        self.write_ref(id, &repository.sha)?;
        Ok(match id.file() {
            Some(file) => snapshot.join(file),
            None => snapshot,
        })
    }

    /// What a repository holds at a revision.
    fn repository(&self, id: &HubId) -> Result<Repository, HubError> {
        let url = format!(
            "{}/api/models/{}/revision/{}?blobs=true",
            self.endpoint,
            id.repository(),
            id.revision().replace('/', "%2F")
        );
        let context = Context { id, file: None };
        let mut response = self.ask(&url, None, &context)?;
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| HubError::Answer {
            url: url.clone(),
            message: error.to_string(),
        })?;
        let repository: Repository =
            serde_json::from_str(&text).map_err(|error| HubError::Answer {
                url: url.clone(),
                message: error.to_string(),
            })?;
        let names = repository
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str());
        if let Some(name) = names
            .chain([repository.sha.as_str()])
            .find(|name| !is_file(name))
        {
            return Err(HubError::Answer {
                url,
                message: format!("a file cannot be called `{name}`"),
            });
        }
        Ok(repository)
    }

    fn choose(&self, id: &HubId, repository: &Repository) -> Result<Vec<String>, HubError> {
        let names: Vec<String> = repository
            .siblings
            .iter()
            .map(|file| file.rfilename.clone())
            .collect();
        let ggufs = files::ggufs(&names);
        match id.file() {
            Some(file) if names.iter().any(|name| name == file) => Ok(vec![file.to_owned()]),
            Some(file) => Err(HubError::NoFile {
                repository: id.repository().to_owned(),
                file: file.to_owned(),
                available: ggufs,
            }),
            None => {
                let needed = files::needed(&names);
                if needed.iter().any(|name| files::is_weight(name)) {
                    return Ok(needed);
                }
                Err(HubError::NoWeights {
                    repository: id.repository().to_owned(),
                    available: ggufs,
                })
            }
        }
    }

    /// Several downloads at a time; progress is told in this thread.
    fn run(
        &self,
        downloads: &[Download<'_>],
        progress: &mut dyn FnMut(HubProgress),
    ) -> Result<(), HubError> {
        // The last file is the configuration, which tells that all others are there.
        let (last, first) = match downloads.split_last() {
            Some(split) => split,
            None => return Ok(()),
        };
        let all = downloads
            .iter()
            .map(|download| download.expected.size)
            .sum();
        let queue = std::sync::Mutex::new(first.iter());
        let (send, receive) = mpsc::channel();
        let mut outcome = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME.min(first.len()))
                .map(|_| {
                    let (send, queue) = (send.clone(), &queue);
                    scope.spawn(move || {
                        loop {
                            let next = queue.lock().map_or(None, |mut queue| queue.next());
                            let Some(download) = next else {
                                return Ok(());
                            };
                            download.run(&mut |file, done, total| {
                                // Nobody listens any more if another file failed.
                                let _ = send.send((file.to_owned(), done, total));
                            })?;
                        }
                    })
                })
                .collect();
            drop(send);
            for (file, done, total) in receive {
                progress(HubProgress {
                    file,
                    done,
                    total,
                    all,
                });
            }
            let mut outcome = Ok(());
            for worker in workers {
                let result = worker.join().unwrap_or(Err(HubError::Cancelled));
                if outcome.is_ok() {
                    outcome = result;
                }
            }
            outcome
        });
        if outcome.is_ok() {
            outcome = last.run(&mut |file, done, total| {
                let file = file.to_owned();
                progress(HubProgress {
                    file,
                    done,
                    total,
                    all,
                });
            });
        }
        outcome
    }

    fn write_ref(&self, id: &HubId, commit: &str) -> Result<(), HubError> {
        if id.revision() == commit {
            return Ok(());
        }
        let path = self
            .cache
            .repository(id.repository())
            .join("refs")
            .join(id.revision());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| HubError::io("create", folder, error))?;
        }
        let new = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, commit)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| HubError::io("write", path, error))
    }

    /// Sends a request, follows redirects, waits where the server asks for it, and turns every
    /// other answer than success into an error.
    pub(super) fn ask(
        &self,
        url: &str,
        range: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Response<Body>, HubError> {
        let mut attempt = 0;
        loop {
            match self.ask_once(url, range, context) {
                Err(HubError::RateLimited { retry_after })
                    if attempt < 3 && retry_after.is_none_or(|wait| wait.as_secs() <= 60) =>
                {
                    self.wait(retry_after.unwrap_or(self.patience * (1 << attempt)))?;
                }
                Err(HubError::Status { status: 500.., .. } | HubError::Network { .. })
                    if attempt < 3 =>
                {
                    self.wait(self.patience * (1 << attempt))?;
                }
                answer => return answer,
            }
            attempt += 1;
        }
    }

    fn ask_once(
        &self,
        url: &str,
        range: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_ours(&url)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(from) = range {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| HubError::Network {
                host: origin(&url).to_owned(),
                reason: error.to_string(),
            })?;
            let status = response.status();
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(self.refusal(&url, response, context));
            }
            let location = header(&response, "Location").ok_or_else(|| HubError::Answer {
                url: url.clone(),
                message: "a redirect to nowhere".to_owned(),
            })?;
            url = if location.starts_with("http://") || location.starts_with("https://") {
                location
            } else {
                format!("{}/{}", origin(&url), location.trim_start_matches('/'))
            };
        }
        Err(HubError::Answer {
            url,
            message: "redirected too often".to_owned(),
        })
    }

    fn is_ours(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    /// What an answer means that is no success.
    fn refusal(&self, url: &str, mut response: Response<Body>, context: &Context<'_>) -> HubError {
        let repository = context.id.repository().to_owned();
        let code = header(&response, "X-Error-Code").unwrap_or_default();
        let status = response.status().as_u16();
        match (status, code.as_str()) {
            (_, "GatedRepo") => HubError::Gated { repository },
            (_, "RepoNotFound") if status != 401 || self.token.is_some() => {
                HubError::NoRepository { repository }
            }
            (401, _) => HubError::Unauthorized {
                repository,
                token: self.token.is_some(),
            },
            (403, _) => HubError::Gated { repository },
            (404, "RevisionNotFound") => HubError::NoRevision {
                repository,
                revision: context.id.revision().to_owned(),
            },
            (404, _) => match context.file {
                Some(file) => HubError::NoFile {
                    repository,
                    file: file.to_owned(),
                    available: Vec::new(),
                },
                None => HubError::NoRepository { repository },
            },
            (429, _) => HubError::RateLimited {
                retry_after: header(&response, "Retry-After")
                    .and_then(|seconds| seconds.trim().parse().ok())
                    .map(Duration::from_secs),
            },
            _ => {
                let body = response
                    .body_mut()
                    .with_config()
                    .limit(4096)
                    .read_to_string();
                let message = header(&response, "X-Error-Message")
                    .or(body.ok())
                    .unwrap_or_default();
                HubError::Status {
                    url: url.to_owned(),
                    status,
                    message: message.chars().take(200).collect(),
                }
            }
        }
    }

    /// Waits, unless the work is cancelled meanwhile.
    pub(super) fn wait(&self, time: Duration) -> Result<(), HubError> {
        let until = std::time::Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    pub(super) fn check(&self) -> Result<(), HubError> {
        match self.cancel.is_cancelled() {
            true => Err(HubError::Cancelled),
            false => Ok(()),
        }
    }
}

/// What a request is about, for its errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) id: &'a HubId,
    pub(super) file: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Repository {
    fn downloads<'a>(&self, hub: &'a Hub, id: &'a HubId, names: &[String]) -> Vec<Download<'a>> {
        let found = names.iter().filter_map(|name| {
            let file = self.siblings.iter().find(|file| file.rfilename == *name)?;
            let lfs = file.lfs.as_ref();
            let is_etag =
                |etag: &String| !etag.is_empty() && etag.chars().all(|c| c.is_ascii_alphanumeric());
            let sha256 = lfs.and_then(|lfs| lfs.sha256.clone()).filter(is_etag);
            let etag = sha256
                .clone()
                .or_else(|| file.blob_id.clone().filter(is_etag));
            Some(Download {
                hub,
                id,
                commit: self.sha.clone(),
                expected: Expected {
                    size: lfs.and_then(|lfs| lfs.size).or(file.size).unwrap_or(0),
                    known: lfs.and_then(|lfs| lfs.size).or(file.size).is_some(),
                    // A file without a known name of its content is named after its place.
                    etag: etag.unwrap_or_else(|| {
                        format!("{}-{}", self.sha, name.replace(['/', '.'], "-"))
                    }),
                    sha256,
                },
                name: name.clone(),
            })
        });
        found.collect()
    }
}

/// Scheme, host and port.
pub(super) fn origin(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url
        .get(begin..)
        .and_then(|rest| rest.find(['/', '?', '#']))
        .map_or(url.len(), |at| begin + at);
    url.get(..end).unwrap_or(url)
}

pub(super) fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}
