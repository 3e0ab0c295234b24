//! Downloads, against a server on this machine that speaks the Hub's protocol.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mlx_lm::CancelFlag;
use mlx_lm::hub::{Hub, HubCache, HubError, HubId, HubProgress};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Outcome, prose};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Debug, Clone, Default)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn from(&self) -> usize {
        let range = self.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        range.unwrap_or(0)
    }
}

#[derive(Debug, Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    cut: Option<usize>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200)
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A file, from where the request wants it.
    fn file(content: &[u8], request: &Request) -> Self {
        match request.from() {
            0 => Self::ok(content),
            from => Self {
                body: content[from..].to_vec(),
                ..Self::status(206)
            }
            .with(
                "Content-Range",
                format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
            ),
        }
    }
}

type Handler = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// A repository `someone/tiny` on a port of this machine; `special` answers first.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    cache: TempDir,
}

fn files() -> BTreeMap<&'static str, Vec<u8>> {
    let weights: Vec<u8> = (0..300_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ 0x5A)
        .collect();
    BTreeMap::from([
        ("README.md", b"not needed".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"model\": 1}".to_vec()),
        ("model.safetensors", weights),
        ("quantised/tiny-Q4_K_M.gguf", b"GGUF".repeat(99)),
    ])
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn info() -> String {
    let siblings: Vec<_> = files()
        .into_iter()
        .map(|(name, content)| match name.ends_with(".json") {
            true => json!({"rfilename": name, "size": content.len(), "blobId": format!("b{}", content.len())}),
            false => json!({"rfilename": name, "size": content.len(), "blobId": "x",
                "lfs": {"sha256": sha256(&content), "size": content.len(), "pointerSize": 1}}),
        })
        .collect();
    json!({"sha": COMMIT, "siblings": siblings, "gated": false}).to_string()
}

fn usual(request: &Request) -> Reply {
    if request
        .path
        .starts_with("/api/models/someone/tiny/revision/main")
    {
        return Reply::ok(info());
    }
    if request
        .path
        .starts_with("/api/models/someone/tiny/revision/")
    {
        return Reply::status(404).with("X-Error-Code", "RevisionNotFound");
    }
    let prefix = format!("/someone/tiny/resolve/{COMMIT}/");
    match request
        .path
        .strip_prefix(&prefix)
        .and_then(|name| files().remove(name))
    {
        Some(content) => Reply::file(&content, request),
        None => Reply::status(401).with("X-Error-Code", "RepoNotFound"),
    }
}

impl Server {
    fn new(special: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, special): (_, Arc<Handler>) = (Arc::clone(&seen), Arc::new(special));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, special) = (Arc::clone(&log), Arc::clone(&special));
                std::thread::spawn(move || answer(&stream, &log, special.as_ref()));
            }
        });
        Self {
            address,
            seen,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn hub(&self) -> Hub {
        Hub::new(&self.address, HubCache::new(self.cache.path())).patience(Duration::from_millis(5))
    }

    fn fetch(&self) -> Result<std::path::PathBuf, HubError> {
        self.hub().fetch(&id("someone/tiny"), &mut |_| {})
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    fn asked(&self, end: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.path.ends_with(end))
            .count()
    }
}

fn answer(stream: &TcpStream, log: &Mutex<Vec<Request>>, special: &Handler) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request {
        path,
        ..Request::default()
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request
            .headers
            .insert(name.to_lowercase(), value.trim().to_owned());
    }
    log.lock().unwrap().push(request.clone());
    let reply = special(&request).unwrap_or_else(|| usual(&request));
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(name, _)| *name == "Content-Length")
    {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(b"\r\n").ok()?;
    let sent = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(&reply.body[..sent]).ok()
}

fn id(name: &str) -> HubId {
    HubId::parse(name).unwrap()
}

/// What was fetched is what the server has.
fn check(snapshot: &Path) {
    let names: Vec<String> = fs::read_dir(snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let content = fs::read(snapshot.join(&name)).unwrap();
        assert!(content == files()[name.as_str()], "{name}");
    }
}

#[test]
fn a_whole_download_lands_in_the_layout_that_all_tools_share() -> Outcome {
    let server = Server::new(|_| None);
    let mut steps: Vec<HubProgress> = Vec::new();
    let folder = server
        .hub()
        .fetch(&id("someone/tiny"), &mut |step| steps.push(step))?;
    check(&folder);
    let root = server.cache.path().join("models--someone--tiny");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main"))?, COMMIT);
    let weights = &files()["model.safetensors"];
    assert!(root.join("blobs").join(sha256(weights)).is_file());
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("model.safetensors"))?,
        Path::new("../../blobs").join(sha256(weights))
    );
    let last = steps.iter().rfind(|step| step.file == "model.safetensors");
    assert_eq!(
        last.map(|step| (step.done, step.total)),
        Some((300_000, 300_000))
    );
    assert_eq!(server.asked("README.md"), 0);
    // The configuration comes last: with it, everything is there.
    assert!(
        server
            .requests()
            .last()
            .unwrap()
            .path
            .ends_with("config.json")
    );

    // Nothing is fetched twice, and `get` does not even ask.
    let before = server.requests().len();
    assert_eq!(server.fetch()?, folder);
    assert_eq!(server.requests().len(), before + 1);
    assert_eq!(server.hub().get(&id("someone/tiny"), &mut |_| {})?, folder);
    assert_eq!(
        server
            .hub()
            .offline(true)
            .fetch(&id("someone/tiny"), &mut |_| {})?,
        folder
    );
    assert_eq!(server.requests().len(), before + 1);

    let cache = HubCache::new(server.cache.path());
    let models = cache.models()?;
    assert_eq!((models.len(), models[0].id.as_str()), (1, "someone/tiny"));
    assert_eq!(models[0].size, 300_000 + 2 + 12 + 40);
    assert_eq!(models[0].revisions[0].refs, ["main"]);
    assert!(models[0].revisions[0].complete);
    assert_eq!(cache.remove(&id("someone/tiny"))?, Some(300_054));
    assert_eq!(cache.remove(&id("someone/tiny"))?, None);
    assert!(cache.models()?.is_empty());
    Ok(())
}

#[test]
fn a_gguf_file_is_fetched_alone() -> Outcome {
    let server = Server::new(|_| None);
    let name = id("someone/tiny/quantised/tiny-Q4_K_M.gguf");
    let file = server.hub().get(&name, &mut |_| {})?;
    assert_eq!(fs::read(&file)?.len(), 396);
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.hub().offline(true).get(&name, &mut |_| {})?, file);
    // The folder is not a whole model by that.
    let folder = server
        .hub()
        .offline(true)
        .get(&id("someone/tiny"), &mut |_| {});
    assert!(matches!(folder, Err(HubError::Offline { .. })));
    Ok(())
}

#[test]
fn a_cut_connection_is_resumed() -> Outcome {
    let cuts = Mutex::new(vec![1, 0, 4_000, 70_000, 100_000]);
    let server = Server::new(move |request| {
        if !request.path.ends_with("model.safetensors") {
            return None;
        }
        let mut reply = Reply::file(&files()["model.safetensors"], request);
        reply.cut = cuts.lock().unwrap().pop();
        Some(reply)
    });
    check(&server.fetch()?);
    let ranges: Vec<usize> = server
        .requests()
        .iter()
        .filter(|request| request.path.ends_with("model.safetensors"))
        .map(Request::from)
        .collect();
    assert_eq!(ranges, [0, 100_000, 170_000, 174_000, 174_000, 174_001]);
    Ok(())
}

#[test]
fn an_interrupted_process_goes_on_where_it_ended() -> Outcome {
    let server = Server::new(|_| None);
    let weights = &files()["model.safetensors"];
    let blobs = server.cache.path().join("models--someone--tiny/blobs");
    fs::create_dir_all(&blobs)?;
    let partial = blobs.join(format!("{}.incomplete", sha256(weights)));
    fs::write(&partial, &weights[..123_456])?;
    check(&server.fetch()?);
    assert!(!partial.exists());
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.from() == 123_456));
    Ok(())
}

#[test]
fn a_server_without_ranges_sends_all_again() -> Outcome {
    let first = Mutex::new(true);
    let server = Server::new(move |request| {
        if !request.path.ends_with("model.safetensors") {
            return None;
        }
        let mut reply = Reply::ok(files()["model.safetensors"].clone());
        if std::mem::take(&mut *first.lock().unwrap()) {
            reply.cut = Some(1000);
        }
        Some(reply)
    });
    check(&server.fetch()?);
    Ok(())
}

#[test]
fn a_connection_that_always_breaks_is_given_up_and_what_came_is_kept() {
    let server = Server::new(|request| {
        let mut reply = usual(request);
        if request.path.ends_with("model.safetensors") {
            reply.cut = Some(if request.from() == 0 { 5_000 } else { 0 });
        }
        Some(reply)
    });
    let error = server.fetch().unwrap_err();
    assert!(matches!(&error, HubError::Network { .. }), "{error}");
    assert!(error.hint().contains("kept"));
    let blobs = server.cache.path().join("models--someone--tiny/blobs");
    let partial = format!("{}.incomplete", sha256(&files()["model.safetensors"]));
    assert_eq!(fs::metadata(blobs.join(partial)).unwrap().len(), 5_000);
    // Nobody takes that for a model.
    let cache = HubCache::new(server.cache.path());
    assert_eq!(cache.snapshot(&id("someone/tiny")), None);
}

#[test]
fn refusals_say_what_to_do() {
    let refused = |status: u16, code: &'static str, token: Option<&str>| {
        let server = Server::new(move |_| Some(Reply::status(status).with("X-Error-Code", code)));
        let hub = server.hub().token(token.map(str::to_owned));
        hub.fetch(&id("someone/tiny"), &mut |_| {}).unwrap_err()
    };
    let error = refused(401, "", None);
    assert!(
        matches!(&error, HubError::Unauthorized { token: false, .. }),
        "{error}"
    );
    assert!(error.hint().contains("HF_TOKEN"));
    // Without a token, the Hub says so of what does not exist, too.
    let error = refused(401, "RepoNotFound", None);
    assert!(matches!(error, HubError::Unauthorized { .. }), "{error}");
    let error = refused(401, "", Some("hf_wrong"));
    assert!(error.hint().contains("wrong or expired"), "{error}");
    for status in [401, 403] {
        let error = refused(status, "GatedRepo", Some("hf_x"));
        assert!(matches!(error, HubError::Gated { .. }), "{error}");
        assert!(error.hint().contains("ask for access"));
    }
    let error = refused(404, "RepoNotFound", None);
    assert!(matches!(error, HubError::NoRepository { .. }), "{error}");
    let error = refused(404, "", None);
    assert!(matches!(error, HubError::NoRepository { .. }), "{error}");
    let error = refused(418, "", None);
    assert!(
        matches!(error, HubError::Status { status: 418, .. }),
        "{error}"
    );
}

#[test]
fn revisions_and_files_that_do_not_exist_are_named() {
    let server = Server::new(|_| None);
    let fetch = |name: &str| server.hub().fetch(&id(name), &mut |_| {}).unwrap_err();
    let error = fetch("someone/tiny@v9");
    assert_eq!(error.to_string(), "`someone/tiny` has no revision `v9`");
    let error = fetch("someone/tiny/other.gguf");
    assert_eq!(error.to_string(), "`someone/tiny` has no file `other.gguf`");
    assert!(error.hint().contains("quantised/tiny-Q4_K_M.gguf"));
    // A file that is in the list and still not there.
    let server = Server::new(|request| {
        (request.path.contains("/resolve/"))
            .then(|| Reply::status(404).with("X-Error-Code", "EntryNotFound"))
    });
    let error = server.fetch().unwrap_err();
    assert!(matches!(error, HubError::NoFile { .. }), "{error}");
    let server = Server::new(|_| {
        Some(Reply::ok(
            json!({"sha": COMMIT, "siblings": [{"rfilename": "a.gguf"}]}).to_string(),
        ))
    });
    let error = server.fetch().unwrap_err();
    assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
    assert_eq!(error.hint(), "it has a.gguf");
}

#[test]
fn a_server_that_is_busy_is_waited_for() -> Outcome {
    let busy = Mutex::new(2);
    let server = Server::new(move |request| {
        let mut busy = busy.lock().unwrap();
        if request.path.contains("/resolve/") && *busy > 0 {
            *busy -= 1;
            return Some(Reply::status(429).with("Retry-After", "1"));
        }
        None
    });
    let started = Instant::now();
    check(&server.fetch()?);
    assert!(started.elapsed() > Duration::from_secs(1));
    // But not for an hour.
    let server = Server::new(|_| Some(Reply::status(429).with("Retry-After", "3600")));
    let started = Instant::now();
    let error = server.fetch().unwrap_err();
    assert_eq!(error.hint(), "try again in 3600 seconds");
    assert!(started.elapsed() < Duration::from_secs(30));
    // Failures of the server itself pass, too.
    let failures = Mutex::new(3);
    let server = Server::new(move |_| {
        let mut failures = failures.lock().unwrap();
        (*failures > 0).then(|| {
            *failures -= 1;
            Reply::status(503)
        })
    });
    check(&server.fetch()?);
    Ok(())
}

#[test]
fn wrong_sizes_and_damaged_bytes_are_noticed_and_removed() {
    let longer = Server::new(|request| {
        request
            .path
            .ends_with("model.safetensors")
            .then(|| Reply::ok([&files()["model.safetensors"][..], b"more"].concat()))
    });
    let error = longer.fetch().unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Size {
                expected: 300_000,
                found: 300_004,
                ..
            }
        ),
        "{error}"
    );
    let shorter = Server::new(|request| {
        request
            .path
            .ends_with("config.json")
            .then(|| Reply::ok("{"))
    });
    let error = shorter.fetch().unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Size {
                expected: 2,
                found: 1,
                ..
            }
        ),
        "{error}"
    );
    let damaged = Server::new(|request| {
        let mut content = files()["model.safetensors"].clone();
        content[7] ^= 1;
        request
            .path
            .ends_with("model.safetensors")
            .then(|| Reply::file(&content, request))
    });
    let error = damaged.fetch().unwrap_err();
    assert!(matches!(error, HubError::Digest { .. }), "{error}");
    let blobs = damaged.cache.path().join("models--someone--tiny/blobs");
    for entry in fs::read_dir(blobs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            !name.starts_with(&sha256(&files()["model.safetensors"])),
            "{name}"
        );
    }
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() -> Outcome {
    let storage = Server::new(|request| {
        let name = request.path.strip_prefix("/storage/")?;
        Some(Reply::file(&files()[name], request))
    });
    let elsewhere = storage.address.clone();
    let server = Server::new(move |request| {
        let (_, name) = request.path.split_once(COMMIT)?;
        if name == "/tokenizer.json" && !request.path.starts_with("/moved") {
            return Some(Reply::status(307).with("Location", format!("/moved{}", request.path)));
        }
        if request.path.starts_with("/moved") {
            return Some(Reply::ok(files()["tokenizer.json"].clone()));
        }
        (name == "/model.safetensors")
            .then(|| Reply::status(302).with("Location", format!("{elsewhere}/storage{name}")))
    });
    let hub = server.hub().token(Some("hf_secret\n".to_owned()));
    check(&hub.fetch(&id("someone/tiny"), &mut |_| {})?);
    let token = |request: &Request| request.headers.get("authorization").cloned();
    assert!(!format!("{hub:?}").contains("hf_secret"));
    assert!(
        server
            .requests()
            .iter()
            .all(|request| token(request).as_deref() == Some("Bearer hf_secret"))
    );
    let elsewhere = storage.requests();
    assert_eq!(elsewhere.len(), 1);
    assert!(elsewhere.iter().all(|request| token(request).is_none()));
    Ok(())
}

#[test]
fn names_from_the_server_stay_in_the_cache() {
    for name in [
        "../../evil.json",
        "/etc/evil.json",
        "a/../../b.json",
        "c:\\d.json",
    ] {
        let server = Server::new(move |_| {
            Some(Reply::ok(
                json!({"sha": COMMIT, "siblings": [{"rfilename": name}]}).to_string(),
            ))
        });
        let error = server.fetch().unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{error}");
    }
    let server = Server::new(|_| Some(Reply::ok("<html>")));
    assert!(matches!(
        server.fetch().unwrap_err(),
        HubError::Answer { .. }
    ));
    let server =
        Server::new(|request| Some(Reply::status(302).with("Location", request.path.clone())));
    assert!(matches!(
        server.fetch().unwrap_err(),
        HubError::Answer { .. }
    ));
}

#[test]
fn a_raised_flag_stops_a_download() {
    let flag = CancelFlag::new();
    let raised = flag.clone();
    let server = Server::new(move |request| {
        if request.path.ends_with("model.safetensors") {
            raised.cancel();
        }
        None
    });
    let error = server
        .hub()
        .cancel(&flag)
        .fetch(&id("someone/tiny"), &mut |_| {});
    assert!(matches!(error, Err(HubError::Cancelled)));
}

#[test]
fn an_absent_server_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&address, HubCache::new(cache.path())).patience(Duration::from_millis(1));
    let error = hub.fetch(&id("a/b"), &mut |_| {}).unwrap_err();
    assert!(
        matches!(&error, HubError::Network { host, .. } if *host == address),
        "{error}"
    );
}

// The program.

fn program(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mlx-lm"))
        .args(arguments)
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("HF_ENDPOINT", &server.address)
        .env("HF_HOME", server.cache.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A server with a model that can be run.
fn prose_server() -> Server {
    let files = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let siblings: Vec<_> = files
        .iter()
        .map(|name| json!({"rfilename": name, "size": fs::metadata(prose().join(name)).unwrap().len()}))
        .collect();
    let info = json!({"sha": COMMIT, "siblings": siblings}).to_string();
    Server::new(move |request| {
        if request.path.starts_with("/api/models/") {
            return Some(Reply::ok(info.clone()));
        }
        let (_, name) = request.path.split_once(&format!("{COMMIT}/"))?;
        Some(Reply::file(&fs::read(prose().join(name)).unwrap(), request))
    })
}

#[test]
#[cfg(feature = "cli")]
fn the_program_fetches_on_first_use() {
    let server = prose_server();
    let arguments = [
        "generate",
        "--quiet",
        "--temp",
        "0",
        "-m",
        "4",
        "-p",
        "The captain",
        "--model",
        "someone/prose",
    ];
    let output = program(&server, &arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.stdout.is_empty());
    assert!(
        server
            .cache
            .path()
            .join("hub/models--someone--prose/refs/main")
            .is_file()
    );
    let before = server.requests().len();
    assert_eq!(program(&server, &arguments).stdout, output.stdout);
    assert_eq!(server.requests().len(), before);
}

#[test]
#[cfg(feature = "cli")]
fn the_program_explains_refusals_in_two_lines() {
    let server = Server::new(|_| Some(Reply::status(403).with("X-Error-Code", "GatedRepo")));
    let output = program(&server, &["info", "--model", "someone/tiny"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: access to `someone/tiny` is restricted (403)\n\
         hint: ask for access on the model's page, then put your token into HF_TOKEN\n"
    );
}
