//! One file, from the server into the cache.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::client::{Context, Hub, header};
use super::error::HubError;
use super::id::HubId;

/// Attempts without a single new byte before giving up.
const ATTEMPTS: u32 = 5;
const BLOCK: usize = 1 << 16;
/// Progress is told each time so many bytes have arrived.
const TELL_EVERY: u64 = 1 << 20;

type Tell<'a> = dyn FnMut(&str, u64, u64) + 'a;

/// What the server's list says about a file.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) size: u64,
    /// Whether the list gave the size.
    pub(super) known: bool,
    /// The name of the content in the cache.
    pub(super) etag: String,
    pub(super) sha256: Option<String>,
}

#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) hub: &'a Hub,
    pub(super) id: &'a HubId,
    pub(super) commit: String,
    pub(super) name: String,
    pub(super) expected: Expected,
}

impl Download<'_> {
    /// Makes sure that the file is in the cache, under its content's name and in its snapshot.
    pub(super) fn run(&self, tell: &mut Tell<'_>) -> Result<(), HubError> {
        self.hub.check()?;
        let repository = self.hub.cache.repository(self.id.repository());
        let blobs = repository.join("blobs");
        let blob = blobs.join(&self.expected.etag);
        let pointer = repository
            .join("snapshots")
            .join(&self.commit)
            .join(&self.name);
        if !self.is_whole(&pointer) {
            if !self.is_whole(&blob) {
                create(&blobs)?;
                let _lock = self.lock()?;
                // Another process may have fetched it while we waited.
                if !self.is_whole(&blob) {
                    self.fetch(&blob, tell)?;
                }
            }
            link(&blob, &pointer)?;
        }
        tell(&self.name, self.expected.size, self.expected.size);
        Ok(())
    }

    fn is_whole(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|file| {
            file.is_file() && (!self.expected.known || file.len() == self.expected.size)
        })
    }

    /// Held until it is dropped; the system releases it when the process ends in any way.
    fn lock(&self) -> Result<File, HubError> {
        let folder = self.hub.cache.locks(self.id.repository());
        create(&folder)?;
        let path = folder.join(format!("{}.lock", self.expected.etag));
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| HubError::io("write", &path, error))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::WouldBlock) => self.hub.wait(self.hub.patience)?,
                Err(fs::TryLockError::Error(error)) => {
                    return Err(HubError::io("lock", path, error));
                }
            }
        }
    }

    fn fetch(&self, blob: &Path, tell: &mut Tell<'_>) -> Result<(), HubError> {
        let partial = blob.with_file_name(format!("{}.incomplete", self.expected.etag));
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&partial)
            .map_err(|error| HubError::io("write", &partial, error))?;
        let mut failures = 0;
        loop {
            let before = length(&file, &partial)?;
            match self.attempt(&mut file, &partial, tell) {
                Ok(()) => break,
                Err(HubError::Network { .. }) if failures < ATTEMPTS => {
                    let gained = length(&file, &partial)? > before;
                    failures = if gained { 0 } else { failures + 1 };
                    self.hub.wait(self.hub.patience * (1 << failures))?;
                }
                Err(error) => return Err(error),
            }
        }
        file.sync_all()
            .map_err(|error| HubError::io("write", &partial, error))?;
        drop(file);
        let checked = self.check(&partial);
        if let Err(HubError::Size { .. } | HubError::Digest { .. }) = checked {
            // Going on from damaged bytes would never end well.
            let _ = fs::remove_file(&partial);
        }
        checked?;
        fs::rename(&partial, blob).map_err(|error| HubError::io("write", blob, error))
    }

    /// One request for what is still missing.
    fn attempt(
        &self,
        file: &mut File,
        partial: &Path,
        tell: &mut Tell<'_>,
    ) -> Result<(), HubError> {
        let mut done = length(file, partial)?;
        if self.expected.known && done == self.expected.size {
            return Ok(());
        }
        if self.expected.known && done > self.expected.size {
            done = restart(file, partial)?;
        }
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.hub.endpoint,
            self.id.repository(),
            self.commit,
            escape(&self.name)
        );
        let context = Context {
            id: self.id,
            file: Some(&self.name),
        };
        let mut response = self.hub.ask(&url, (done > 0).then_some(done), &context)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(&response, "Content-Range").unwrap_or_default();
                if !range.starts_with(&format!("bytes {done}-")) {
                    return Err(HubError::Answer {
                        url,
                        message: format!("sent `{range}`, asked for bytes from {done} on"),
                    });
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                restart(file, partial)?;
                return Err(HubError::Network {
                    host: super::client::origin(&url).to_owned(),
                    reason: "the server does not go on where it ended".to_owned(),
                });
            }
            // The server does not know ranges, so all comes again.
            _ if done > 0 => done = restart(file, partial)?,
            _ => {}
        }
        let announced: Option<u64> =
            header(&response, "Content-Length").and_then(|text| text.parse().ok());
        let total = match (self.expected.known, announced) {
            (true, _) => self.expected.size,
            (false, Some(rest)) => done + rest,
            (false, None) => 0,
        };
        if let (true, Some(rest)) = (self.expected.known, announced)
            && done + rest != total
        {
            return Err(self.wrong_size(done + rest));
        }
        tell(&self.name, done, total);
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut block = vec![0; BLOCK];
        let mut told = done;
        loop {
            self.hub.check()?;
            let read = match reader.read(&mut block) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(HubError::Network {
                        host: super::client::origin(&url).to_owned(),
                        reason: error.to_string(),
                    });
                }
            };
            let bytes = block.get(..read).unwrap_or_default();
            file.write_all(bytes)
                .map_err(|error| HubError::io("write", partial, error))?;
            done += u64::try_from(read).unwrap_or(0);
            if self.expected.known && done > total {
                break;
            }
            if done - told >= TELL_EVERY {
                told = done;
                tell(&self.name, done, total);
            }
        }
        if total > 0 && done < total {
            return Err(HubError::Network {
                host: super::client::origin(&url).to_owned(),
                reason: format!("the connection ended after {done} of {total} bytes"),
            });
        }
        Ok(())
    }

    fn wrong_size(&self, found: u64) -> HubError {
        HubError::Size {
            file: self.name.clone(),
            expected: self.expected.size,
            found,
        }
    }

    /// Compares size and digest with what the server's list says.
    fn check(&self, partial: &Path) -> Result<(), HubError> {
        let read = |error| HubError::io("read", partial, error);
        let mut file = File::open(partial).map_err(read)?;
        let found = length(&file, partial)?;
        if self.expected.known && found != self.expected.size {
            return Err(self.wrong_size(found));
        }
        let Some(expected) = &self.expected.sha256 else {
            return Ok(());
        };
        let mut digest = Sha256::new();
        let mut block = vec![0; 1 << 20];
        loop {
            self.hub.check()?;
            let count = file.read(&mut block).map_err(read)?;
            if count == 0 {
                break;
            }
            digest.update(block.get(..count).unwrap_or_default());
        }
        let found: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        match found.eq_ignore_ascii_case(expected) {
            true => Ok(()),
            false => Err(HubError::Digest {
                file: self.name.clone(),
                expected: expected.clone(),
                found,
            }),
        }
    }
}

fn create(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io("create", folder, error))
}

fn length(file: &File, path: &Path) -> Result<u64, HubError> {
    let metadata = file.metadata();
    Ok(metadata
        .map_err(|error| HubError::io("read", path, error))?
        .len())
}

fn restart(file: &mut File, path: &Path) -> Result<u64, HubError> {
    file.set_len(0)
        .map_err(|error| HubError::io("write", path, error))?;
    Ok(0)
}

/// Puts the file into its snapshot: a relative link where links exist, as all tools of the Hub do.
fn link(blob: &Path, pointer: &Path) -> Result<(), HubError> {
    if let Some(folder) = pointer.parent() {
        create(folder)?;
    }
    match fs::remove_file(pointer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(HubError::io("replace", pointer, error));
        }
        _ => {}
    }
    place(blob, pointer).map_err(|error| HubError::io("write", pointer, error))
}

#[cfg(unix)]
fn place(blob: &Path, pointer: &Path) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    let repository = blob.parent().and_then(Path::parent);
    let folder = pointer.parent();
    // From `snapshots/<commit>/…` up to the repository.
    let depth = match (repository, folder) {
        (Some(repository), Some(folder)) => folder
            .strip_prefix(repository)
            .map_or(2, |below| below.components().count()),
        _ => 2,
    };
    let up: PathBuf = std::iter::repeat_n("..", depth).collect();
    let made = std::os::unix::fs::symlink(up.join("blobs").join(name), pointer);
    match made {
        // Two processes may place the same file at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(not(unix))]
fn place(blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::copy(blob, pointer).map(drop)
}

/// A path in an address.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
