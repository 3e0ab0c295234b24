use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::ahead::fetch_ahead;
use super::header::{Entry, array_dtype, parse};
use crate::ffi::mmap::map_file;
use crate::io::atomic::io_error;
use crate::io::data::Data;
use crate::{Array, Dtype, Error, Result};

/// One safetensors file, or the several that an index names, opened but not read.
///
/// Opening maps the files and validates their headers; a tensor is copied into
/// an array only when it is asked for. The maps show the files as they are on
/// disk, so a file must not be shortened while it is open; replace it by
/// renaming, as [`save_safetensors`](super::save_safetensors) does.
///
/// ```
/// use mlx_core::Array;
/// use mlx_core::io::{SafetensorsFile, save_safetensors};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// let weight = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3])?;
/// save_safetensors(&path, [("weight", &weight)], &Default::default())?;
///
/// let file = SafetensorsFile::open(&path)?;
/// assert_eq!(file.shape("weight")?, [3]);
/// assert_eq!(file.read("weight")?.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsFile {
    shards: Vec<Shard>,
    /// Shard and position in it of each tensor.
    index: BTreeMap<String, (usize, usize)>,
    metadata: HashMap<String, String>,
    label: String,
}

#[derive(Debug)]
struct Shard {
    data: Data,
    tensors: Vec<Entry>,
    label: String,
}

impl SafetensorsFile {
    /// Opens `path`: a `.safetensors` file, or a `.json` index whose
    /// `weight_map` names the files beside it.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened or mapped, and [`Error::Format`]
    /// if a header or the index is wrong in any way, a tensor is in two files,
    /// or not in the one that the index names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            Self::open_index(path)
        } else {
            Self::open_all([path])
        }
    }

    /// Opens several files as one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut file = Self::empty();
        for path in paths {
            let path = path.as_ref();
            let label = format!("safetensors file `{}`", path.display());
            file.add(Data::Mapped(map_file(path)?), label)?;
        }
        Ok(file)
    }

    /// Validates a file that is already in memory.
    ///
    /// # Errors
    /// [`Error::Format`] as for [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let mut file = Self::empty();
        file.add(Data::Owned(bytes.into()), "safetensors file".to_owned())?;
        Ok(file)
    }

    fn empty() -> Self {
        Self {
            shards: Vec::new(),
            index: BTreeMap::new(),
            metadata: HashMap::new(),
            label: String::new(),
        }
    }

    fn open_index(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }

        let label = format!("safetensors index `{}`", path.display());
        let error = |message: String| Error::Format {
            what: label.clone(),
            message,
        };
        let text = fs::read(path).map_err(|source| io_error(path, source))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|source| error(source.to_string()))?;
        let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        let paths = shards
            .iter()
            .map(|&name| {
                sibling(path, name)
                    .ok_or_else(|| error(format!("`{name}` is no name of a file beside the index")))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut file = Self::open_all(paths)?;
        let misplaced: Vec<&str> = index
            .weight_map
            .iter()
            .filter(|&(tensor, shard)| {
                let found = file.index.get(tensor.as_str());
                found.and_then(|&(found, _)| shards.iter().nth(found)) != Some(&shard.as_str())
            })
            .map(|(tensor, _)| tensor.as_str())
            .collect();
        if let Some(first) = misplaced.first() {
            return Err(error(format!(
                "{} tensors are not in the files it names, the first is `{first}`",
                misplaced.len()
            )));
        }
        file.label = label;
        Ok(file)
    }

    fn add(&mut self, data: Data, label: String) -> Result<()> {
        let header = parse(&data, &label)?;
        for (position, tensor) in header.tensors.iter().enumerate() {
            let place = (self.shards.len(), position);
            if self.index.insert(tensor.name.clone(), place).is_some() {
                return Err(Error::Format {
                    what: label,
                    message: format!("tensor `{}` is also in another file", tensor.name),
                });
            }
        }
        for (key, value) in header.metadata {
            self.metadata.entry(key).or_insert(value);
        }
        if self.label.is_empty() {
            self.label.clone_from(&label);
        }
        self.shards.push(Shard {
            data,
            tensors: header.tensors,
            label,
        });
        Ok(())
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether there is a tensor called `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The text pairs of the header; those of the first file win.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.1.shape)
    }

    /// The dtype of the array that the tensor `name` becomes.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, and [`Error::Unsupported`] if it is
    /// stored in floats of fewer than eight bits.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        let (shard, entry) = self.entry(name)?;
        array_dtype(entry.stored).ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: tensor `{name}`: arrays cannot hold {}",
                shard.label, entry.stored
            ))
        })
    }

    /// The stored bytes of the tensor `name`, in row-major order.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (shard, entry) = self.entry(name)?;
        shard
            .data
            .get(entry.start..entry.end)
            .ok_or_else(|| self.missing(name))
    }

    /// The tensor `name` as an array.
    ///
    /// # Errors
    /// As [`dtype`](Self::dtype), and whatever creating the array reports.
    pub fn read(&self, name: &str) -> Result<Array> {
        Array::from_bytes(self.bytes(name)?, &self.shape(name)?, self.dtype(name)?)
    }

    /// Reads the tensors `names`, and hands each to `visit` as soon as it is there, until that breaks.
    ///
    /// Several threads bring in the bytes, of all files at once, ahead of the calling one, which
    /// makes the arrays. Their order is not that of `names`. A tensor that cannot be read is handed
    /// over as the error of [`read`](Self::read).
    pub fn read_each<'n>(
        &self,
        names: &[&'n str],
        visit: impl FnMut(&'n str, Result<Array>) -> ControlFlow<()>,
    ) {
        let mut order: Vec<(&'n str, &[u8])> = names
            .iter()
            .map(|&name| (name, self.bytes(name).unwrap_or_default()))
            .collect();
        // In file order, which is the one that disks like.
        order.sort_by_key(|(name, _)| self.index.get(*name));
        fetch_ahead(&order, |name| self.read(name), visit);
    }

    fn entry(&self, name: &str) -> Result<(&Shard, &Entry)> {
        self.index
            .get(name)
            .and_then(|&(shard, position)| {
                let shard = self.shards.get(shard)?;
                Some((shard, shard.tensors.get(position)?))
            })
            .ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::Format {
            what: self.label.clone(),
            message: format!("tensor `{name}` is missing"),
        }
    }
}

/// Reads every tensor and the metadata of a safetensors file or index.
///
/// # Errors
/// As [`SafetensorsFile::open`] and [`SafetensorsFile::read`].
pub fn load_safetensors(
    path: impl AsRef<Path>,
) -> Result<(HashMap<String, Array>, HashMap<String, String>)> {
    let file = SafetensorsFile::open(path)?;
    let names: Vec<&str> = file.names().collect();
    let mut arrays = Ok(HashMap::with_capacity(names.len()));
    file.read_each(&names, |name, array| {
        match (&mut arrays, array) {
            (Ok(arrays), Ok(array)) => drop(arrays.insert(name.to_owned(), array)),
            (_, Ok(_)) => {}
            (_, Err(error)) => arrays = Err(error),
        }
        match arrays {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    Ok((arrays?, file.metadata))
}

/// The file `name` beside `index`; an index must not reach elsewhere.
fn sibling(index: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Some(index.with_file_name(name)),
        _ => None,
    }
}
