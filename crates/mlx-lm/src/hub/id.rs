//! How people name models of the Hub.

use std::fmt;

/// The branch that is meant when none is named.
const MAIN: &str = "main";

/// A model of the Hub: `org/name`, perhaps with `@revision`, perhaps with a GGUF file behind it.
///
/// ```
/// use mlx_lm::hub::HubId;
/// let id = HubId::parse("org/name@v1.0/model-Q4_K_M.gguf").unwrap();
/// assert_eq!((id.repository(), id.revision()), ("org/name", "v1.0"));
/// assert_eq!(id.file(), Some("model-Q4_K_M.gguf"));
/// assert!(HubId::parse("../name").is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubId {
    repository: String,
    revision: String,
    file: Option<String>,
}

impl HubId {
    /// Reads a name; `None` if no model of the Hub can be called so.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '/');
        let (mut organisation, mut model) = (parts.next()?, parts.next());
        let file = parts.next();
        let mut revision = MAIN;
        let last = model.as_mut().unwrap_or(&mut organisation);
        if let Some((name, named)) = last.split_once('@') {
            (*last, revision) = (name, named);
        }
        let valid = is_part(organisation)
            && model.is_none_or(is_part)
            && is_revision(revision)
            && file.is_none_or(|file| is_file(file) && file.to_lowercase().ends_with(".gguf"));
        valid.then(|| Self {
            repository: match model {
                Some(model) => format!("{organisation}/{model}"),
                None => organisation.to_owned(),
            },
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }

    /// The same at another branch, tag or commit; `None` if nothing can be called so.
    #[must_use]
    pub fn at(mut self, revision: &str) -> Option<Self> {
        is_revision(revision).then(|| {
            self.revision = revision.to_owned();
            self
        })
    }

    /// `org/name`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit; `main` by default.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The GGUF file that is meant, where one is named.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 96
        && !part.starts_with(['.', '-'])
        && !part.ends_with('.')
        && !part.contains("--")
        && !part.contains("..")
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Branches may hold slashes; a path out of the cache they may not be.
fn is_revision(revision: &str) -> bool {
    is_file(revision)
}

/// Whether a name from the network or the command line stays below the folder that it is put in.
pub(super) fn is_file(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part
                    .chars()
                    .any(|c| c.is_control() || "\\:*?\"<>|".contains(c))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "a/b/../c.gguf",
            "a/b//c.gguf",
            ".a/b",
            "a b/c",
            "a/b@",
            "a/b@../x",
            "a/b@v/w",
            "C:\\models",
            "./model",
            "a--b/c",
        ] {
            assert_eq!(HubId::parse(name), None, "{name}");
        }
        for name in ["gpt2", "a/b", "a/b@v1", "a/b/q/c.GGUF", "a/b@v1/c.gguf"] {
            assert_eq!(HubId::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_revision_may_be_a_path() {
        let id = HubId::parse("a/b").unwrap().at("refs/pr/1").unwrap();
        assert_eq!(id.revision(), "refs/pr/1");
        assert!(id.at("../up").is_none());
    }
}
