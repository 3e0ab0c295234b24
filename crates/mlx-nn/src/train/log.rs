//! The log of a training run: one JSON object on each line.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::checkpoint::replace;
use crate::{Error, Result};

/// What is known at one step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The steps taken so far.
    pub step: u64,
    /// The mean loss since the record before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The loss on held-out data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Tokens or samples seen so far.
    #[serde(default)]
    pub units: u64,
    /// Of them, how many in a second since the record before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units_per_second: Option<f64>,
    /// Seconds of training so far, evaluation included.
    #[serde(default)]
    pub seconds: f64,
    /// The most memory that arrays took, in bytes.
    #[serde(default)]
    pub peak_memory: u64,
}

/// A log file of [`Record`]s.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens a log to go on after `step`; later records, of a run that was cut off, are dropped.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or written.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref();
        let mut kept = String::new();
        if path.exists() {
            for record in Self::read(path)?
                .iter()
                .filter(|record| record.step <= step)
            {
                kept.push_str(&line(record)?);
            }
        }
        replace(path, |beside| {
            fs::write(beside, &kept).map_err(|source| Error::file("write", beside, source))
        })?;
        let file = File::options()
            .append(true)
            .open(path)
            .map_err(|source| Error::file("open", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let line = line(record)?;
        self.file
            .write_all(line.as_bytes())
            .map_err(|source| Error::file("write", &self.path, source))
    }

    /// All records of a log, up to one that was cut off while it was written.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Record>> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| Error::file("read", path, source))?;
        let mut records = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|source| Error::file("read", path, source))?;
            match serde_json::from_str(&line) {
                Ok(record) => records.push(record),
                Err(_) => break,
            }
        }
        Ok(records)
    }
}

fn line(record: &Record) -> Result<String> {
    let json =
        serde_json::to_string(record).map_err(|error| Error::invalid("Log", error.to_string()))?;
    Ok(json + "\n")
}
