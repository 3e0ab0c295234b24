//! The host file of the ring: a JSON list with the addresses of each process.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

const FILE: &str = "MLX_HOSTFILE";
const RANK: &str = "MLX_RANK";

/// The addresses of a ring's processes, for those who start them.
///
/// MLX reads them from its environment, which a running process cannot change safely; so they are
/// given to processes before they start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    addresses: Vec<Vec<String>>,
}

impl Hosts {
    /// One list of `host:port` for each process, in the order of ranks. More than one address each
    /// gives as many connections between neighbours.
    ///
    /// # Errors
    /// [`Error::Format`] if a list is empty, the lists differ in length, or an entry has no port.
    pub fn new<S: Into<String>>(
        addresses: impl IntoIterator<Item = impl IntoIterator<Item = S>>,
    ) -> Result<Self> {
        let addresses = addresses
            .into_iter()
            .map(|host| host.into_iter().map(Into::into).collect())
            .collect();
        check("hosts", addresses)
    }

    /// Processes on this machine, on ports that are free now.
    ///
    /// # Errors
    /// [`Error::Io`] if there are no free ports.
    pub fn loopback(processes: usize) -> Result<Self> {
        let io = |source| Error::Io {
            path: "127.0.0.1".into(),
            source,
        };
        // All at once, so that they differ.
        let listeners = (0..processes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(io)?;
        let addresses = listeners
            .iter()
            .map(|listener| Ok(vec![listener.local_addr()?.to_string()]))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(io)?;
        check("hosts", addresses)
    }

    /// How many processes there are.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is none; never true.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Writes the host file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, serde_json::json!(self.addresses).to_string()).map_err(|source| {
            Error::Io {
                path: path.to_owned(),
                source,
            }
        })
    }

    /// Makes `command` the process of this rank.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if there is no such rank.
    pub fn configure(
        &self,
        command: &mut Command,
        file: impl AsRef<Path>,
        rank: usize,
    ) -> Result<()> {
        if rank >= self.len() {
            return Err(Error::OutOfBounds {
                op: "configure",
                index: i64::try_from(rank).unwrap_or(i64::MAX),
                axis: 0,
                size: i64::try_from(self.len()).unwrap_or(i64::MAX),
            });
        }
        command.env(FILE, file.as_ref()).env(RANK, rank.to_string());
        Ok(())
    }
}

/// How many processes the environment names, after checking everything on which MLX would trip.
pub(super) fn from_environment() -> Result<Option<usize>> {
    let (Some(path), Some(rank)) = (std::env::var_os(FILE), std::env::var_os(RANK)) else {
        return Ok(None);
    };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let hosts = parse(&path.display().to_string(), &text)?;
    rank.to_str()
        .and_then(|rank| rank.parse::<usize>().ok())
        .filter(|&rank| rank < hosts.len())
        .ok_or_else(|| Error::Format {
            what: RANK.to_owned(),
            message: format!(
                "{} is no rank of the {} processes in {}",
                rank.display(),
                hosts.len(),
                path.display()
            ),
        })?;
    Ok(Some(hosts.len()))
}

fn parse(what: &str, text: &str) -> Result<Hosts> {
    let addresses = serde_json::from_str(text).map_err(|error| Error::Format {
        what: what.to_owned(),
        message: format!("no list of lists of addresses: {error}"),
    })?;
    check(what, addresses)
}

fn check(what: &str, addresses: Vec<Vec<String>>) -> Result<Hosts> {
    let wrong = |message: String| Error::Format {
        what: what.to_owned(),
        message,
    };
    let width = addresses.first().map_or(0, Vec::len);
    if width == 0 || addresses.iter().any(|host| host.len() != width) {
        return Err(wrong(
            "each process needs as many addresses as the others, at least one".to_owned(),
        ));
    }
    for address in addresses.iter().flatten() {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(wrong(format!("`{address}` is no host:port")));
        }
    }
    Ok(Hosts { addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_files_are_checked() {
        assert_eq!(parse("f", r#"[["a:1"],["b:2"]]"#).unwrap().len(), 2);
        for text in [
            "",
            "{}",
            "[]",
            "[[]]",
            r#"["a:1"]"#,
            r#"[["a:1"],["b:1","c:2"]]"#,
            r#"[["a"]]"#,
            r#"[["a:0"]]"#,
            r#"[["a:99999"]]"#,
            r#"[[":80"]]"#,
        ] {
            assert!(
                matches!(parse("f", text), Err(Error::Format { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn loopback_ports_differ() {
        let hosts = Hosts::loopback(3).unwrap();
        let mut ports: Vec<_> = hosts.addresses.iter().flatten().collect();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 3);
        let mut command = Command::new("x");
        assert!(hosts.configure(&mut command, "f", 3).is_err());
        hosts.configure(&mut command, "f", 2).unwrap();
        assert_eq!(command.get_envs().count(), 2);
    }
}
