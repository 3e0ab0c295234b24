//! One GGUF file, or the parts that a large model is split into.

use std::path::{Path, PathBuf};

use mlx_core::io::gguf::{GgufFile, Metadata, TensorInfo, TensorView};

use crate::{Error, Result};

/// The most parts that are looked for; the numbers in their names have five digits.
const MAX_PARTS: u32 = 99_999;

/// The open parts of a model, of which the first has the metadata of all.
pub(super) struct Files {
    first: GgufFile,
    rest: Vec<GgufFile>,
}

impl Files {
    /// Opens a file, and the others beside it if it is one of several.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let count = file.metadata().get::<u32>("split.count")?.unwrap_or(1);
        if count < 2 {
            let rest = Vec::new();
            return Ok(Self { first: file, rest });
        }
        let own = number(&file)?;
        let part = |number: u32| match number == own {
            true => Ok(path.to_owned()),
            false => sibling(path, own, number, count),
        };
        // A count that lies is found out by the name, which holds it, too.
        let mut files = (0..count.min(MAX_PARTS))
            .map(|number| open_part(&part(number)?, number, count))
            .collect::<Result<Vec<_>>>()?;
        let first = files.remove(0);
        let files = Self { first, rest: files };
        files.check()?;
        Ok(files)
    }

    /// Fails if a tensor is there twice, or if not all are there.
    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.tensors().map(TensorInfo::name).collect();
        let stated = self.metadata().get::<u64>("split.tensors.count")?;
        if stated.is_some_and(|stated| usize::try_from(stated) != Ok(names.len())) {
            return Err(Error::weights(format!(
                "the parts hold {} tensors, not {}",
                names.len(),
                stated.unwrap_or(0)
            )));
        }
        names.sort_unstable();
        let twice = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b);
        match twice {
            Some((name, _)) => Err(Error::weights(format!("`{name}` is in two parts"))),
            None => Ok(()),
        }
    }

    fn all(&self) -> impl Iterator<Item = &GgufFile> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    pub(super) fn metadata(&self) -> &Metadata {
        self.first.metadata()
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.all().flat_map(GgufFile::tensors)
    }

    pub(super) fn views(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.all().flat_map(GgufFile::views)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.all().any(|file| file.contains(name))
    }

    /// The tensor `name`, or the error of the first part.
    pub(super) fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let file = self.all().find(|file| file.contains(name));
        Ok(file.unwrap_or(&self.first).tensor(name)?)
    }
}

fn number(file: &GgufFile) -> Result<u32> {
    Ok(file.metadata().require::<u32>("split.no")?)
}

fn open_part(path: &Path, part: u32, count: u32) -> Result<GgufFile> {
    if !path.is_file() {
        return Err(Error::MissingFile {
            file: path.file_name().unwrap_or_default().display().to_string(),
        });
    }
    let file = GgufFile::open(path)?;
    let stated = file.metadata().get::<u32>("split.count")?;
    if (number(&file)?, stated) != (part, Some(count)) {
        return Err(Error::weights(format!(
            "`{}` is not part {} of {count}",
            path.display(),
            part + 1
        )));
    }
    Ok(file)
}

/// Where another part lies: `name-00001-of-00003.gguf` counts from one.
fn sibling(path: &Path, own: u32, other: u32, count: u32) -> Result<PathBuf> {
    let ending = |number: u32| format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1));
    let name = path.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.strip_suffix(&ending(own)));
    match stem {
        Some(stem) => Ok(path.with_file_name(format!("{stem}{}", ending(other)))),
        None => Err(Error::weights(format!(
            "is part {} of {count}, but its name does not end in `{}`, so that the others cannot be \
             found",
            own.saturating_add(1),
            ending(own)
        ))),
    }
}
