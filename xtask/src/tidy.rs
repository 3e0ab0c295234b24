//! `cargo xtask tidy`: the house rules that no compiler knows.
//!
//! Each rule is a pure function from what it reads to findings, so that its own
//! tests need neither files nor cargo.

mod files;
mod graph;
mod links;
mod manifests;
mod private;
mod registry;
mod safety;
mod source;

use std::fmt;

use anyhow::{Context, Result, bail};

use self::source::SourceFile;
use crate::{metadata, sh};

/// Options of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Treat warnings as failures
    #[arg(long)]
    strict: bool,
}

/// Something that a rule has to say about a place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    place: String,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Warning,
    Error,
}

impl Finding {
    fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            place: place.into(),
            message: message.into(),
        }
    }

    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}: {}: {}", self.place, self.message)
    }
}

/// Checks every rule and fails if one is broken.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sources = tracked_sources()?;
    let packages = metadata::packages()?;
    let root = sh::root();

    let mut findings = graph::check(&packages);
    findings.extend(manifests::check(&sources));
    findings.extend(safety::check_roots(&packages, &root, &sources));
    findings.extend(registry::check(&sources, |folder| {
        root.join(folder).is_dir()
    }));
    for file in &sources {
        findings.extend(files::check(file));
        findings.extend(safety::check_file(file));
        findings.extend(private::check(file));
        findings.extend(links::check(file, |path| root.join(path).exists()));
    }
    if let Err(error) = crate::dispatch(&["codegen", "--check"]) {
        findings.push(Finding::error("generated files", format!("{error:#}")));
    }

    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    let warnings = findings.len() - errors;
    println!(
        "tidy: {} files, {errors} errors, {warnings} warnings",
        sources.len()
    );
    if errors > 0 || (args.strict && warnings > 0) {
        bail!(
            "{} of the house rules are broken, see above",
            findings.len()
        );
    }
    Ok(())
}

/// Every text file that git tracks or would track.
fn tracked_sources() -> Result<Vec<SourceFile>> {
    let root = sh::root();
    let mut git = std::process::Command::new("git");
    git.current_dir(&root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing = sh::read(&mut git).context("list the files of the repository")?;
    let mut sources = Vec::new();
    for path in listing.split('\0').filter(|path| source::is_text(path)) {
        match std::fs::read_to_string(root.join(path)) {
            Ok(text) => sources.push(SourceFile::new(path, text)),
            // A file deleted but not yet committed so is still listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}
