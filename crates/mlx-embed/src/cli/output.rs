//! Where vectors go: lines on standard output, or one array in a file.

use std::collections::HashMap;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use mlx_core::Array;
use mlx_core::io::{save_npy, save_safetensors};
use mlx_core::ops::shape::concatenate;
use serde_json::json;

use mlx_lm::cli::{Failure, NewFile};

/// The name of the array in a safetensors file.
const ARRAY: &str = "embeddings";

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Output {
    /// A line of numbers for each text.
    Numbers,
    /// A JSON object for each text.
    Json,
    /// All vectors in one file, which appears once it is complete.
    File {
        path: PathBuf,
        format: Format,
        parts: Vec<Array>,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    Npy,
    Safetensors,
}

impl Output {
    /// Refuses a file that could not be written before any work is done for it.
    pub(crate) fn new(path: Option<&Path>, json: bool) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(if json { Self::Json } else { Self::Numbers });
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension {
            Some("npy") => Format::Npy,
            Some("safetensors") => Format::Safetensors,
            _ => {
                return Err(Failure::usage(
                    format!("cannot tell the format of {}", path.display()),
                    "name a file that ends in .npy or .safetensors",
                ));
            }
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if path.is_dir() || !folder.is_dir() {
            return Err(Failure::usage(
                format!("{} cannot be written", path.display()),
                "name a file in a folder that exists",
            ));
        }
        Ok(Self::File {
            path: path.to_owned(),
            format,
            parts: Vec::new(),
        })
    }

    /// Takes the vectors `[N, D]` of texts, of which the first is number `start`.
    pub(crate) fn write(
        &mut self,
        start: usize,
        texts: &[String],
        vectors: Array,
    ) -> Result<(), Failure> {
        if let Self::File { parts, .. } = self {
            parts.push(vectors);
            return Ok(());
        }
        let columns = usize::try_from(vectors.dim(1)?).unwrap_or(0).max(1);
        let values = vectors.to_vec::<f32>()?;
        let mut out = stdout().lock();
        for ((index, text), vector) in (start..).zip(texts).zip(values.chunks(columns)) {
            let line = match self {
                Self::Json => {
                    json!({ "index": index, "text": text, "embedding": vector }).to_string()
                }
                _ => vector
                    .iter()
                    .map(f32::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            };
            writeln!(out, "{line}").map_err(|error| Failure::stdout(&error))?;
        }
        out.flush().map_err(|error| Failure::stdout(&error))
    }

    /// Writes the file, if there is one; `empty` is what no texts give.
    pub(crate) fn finish(self, model: String, empty: &Array) -> Result<(), Failure> {
        let Self::File {
            path,
            format,
            parts,
        } = self
        else {
            return Ok(());
        };
        let vectors = match parts.as_slice() {
            [] => empty.clone(),
            parts => concatenate(&parts.iter().collect::<Vec<_>>(), 0)?,
        };
        let file = NewFile::create(&path)?;
        match format {
            Format::Npy => save_npy(file.temporary(), &vectors)?,
            Format::Safetensors => {
                let metadata = HashMap::from([("model".to_owned(), model)]);
                save_safetensors(file.temporary(), [(ARRAY, &vectors)], &metadata)?;
            }
        }
        file.finish()
    }
}
