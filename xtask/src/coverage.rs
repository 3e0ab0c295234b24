//! `cargo xtask coverage`: MLX's public names against ours.
//!
//! MLX's side is read from the packaged headers and from a list of Python's names; ours from the
//! sources of the crates. A name is covered if an item of the same name stands where users look
//! for it, or if `coverage/table.toml` says which item does its work and that item exists. What
//! is left out on purpose stands in the same table, with the reason.

mod headers;
mod surface;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::surface::Surface;
use crate::fetch::{Backend, Cache, Mlx, Pins, Target};
use crate::progress;
use crate::sh;
use crate::table::Table;

/// Options of `cargo xtask coverage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each name with the item that covers it
    #[arg(long)]
    all: bool,
}

/// The headers that make MLX's public interface, with the family of their names.
const HEADERS: &[(&str, &str)] = &[
    ("array", "array.h"),
    ("ops", "ops.h"),
    ("random", "random.h"),
    ("fast", "fast.h"),
    ("linalg", "linalg.h"),
    ("fft", "fft.h"),
    ("einsum", "einsum.h"),
    ("transforms", "transforms.h"),
    ("compile", "compile.h"),
    ("export", "export.h"),
    ("export", "export_impl.h"),
    ("io", "io.h"),
    ("io", "io/load.h"),
    ("memory", "memory.h"),
    ("device", "device.h"),
    ("stream", "stream.h"),
    ("dtype", "dtype.h"),
    ("utils", "utils.h"),
    ("graph", "graph_utils.h"),
    ("version", "version.h"),
    ("distributed", "distributed/distributed.h"),
    ("distributed", "distributed/ops.h"),
    ("backends", "backend/metal/metal.h"),
    ("backends", "backend/cuda/cuda.h"),
    ("backends", "backend/common/metal_kernel.h"),
];

const PYTHON: &str = include_str!("coverage/python.txt");
const TABLE: &str = include_str!("coverage/table.toml");

/// `coverage/table.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    /// MLX name to the Rust item that does its work.
    paths: BTreeMap<String, String>,
    /// MLX name, or a namespace that ends in `::`, to the reason for leaving it out.
    omitted: BTreeMap<String, String>,
}

/// What became of one name.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// An item of the same name.
    Same(String),
    /// An item of another name.
    Other(String),
    Omitted(String),
    Missing,
}

/// Compares and prints; a missing name is a failure.
pub(crate) fn run(args: &Args) -> Result<()> {
    let differences: Differences = toml::from_str(TABLE).context("read coverage/table.toml")?;
    let mut families = header_names()?;
    for (family, names) in python_names(PYTHON) {
        families.push((format!("python {family}"), names));
    }
    let mut surface = Surface::default();
    for (name, root) in [
        ("mlx_core", "crates/mlx-core/src/lib.rs"),
        ("mlx_transforms", "crates/mlx-transforms/src/lib.rs"),
        ("mlx_nn", "crates/mlx-nn/src/lib.rs"),
    ] {
        surface.read_crate(name, &sh::root().join(root))?;
    }

    let mut table = Table::new(&["family", "names", "same", "other", "omitted", "missing"]);
    let mut missing = Vec::new();
    let mut omitted = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut totals = [0usize; 5];
    for (family, names) in &families {
        let mut counts = [names.len(), 0, 0, 0, 0];
        for name in names {
            seen.insert(name.clone());
            let outcome = judge(name, &differences, &surface);
            if args.all {
                println!("{family:20} {name:34} {outcome:?}");
            }
            match outcome {
                Outcome::Same(_) => counts[1] += 1,
                Outcome::Other(_) => counts[2] += 1,
                Outcome::Omitted(reason) => {
                    counts[3] += 1;
                    omitted
                        .entry(reason)
                        .or_insert_with(BTreeSet::new)
                        .insert(name.clone());
                }
                Outcome::Missing => {
                    counts[4] += 1;
                    missing.push(format!("{family}: {name}"));
                }
            }
        }
        let mut row = vec![family.clone()];
        row.extend(counts.iter().map(ToString::to_string));
        table.row(&row);
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
    }
    let mut row = vec!["total".to_owned()];
    row.extend(totals.iter().map(ToString::to_string));
    table.row(&row);
    println!("{table}");
    println!("left out on purpose:");
    for (reason, names) in &omitted {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        println!("  {}: {reason}", names.join(" "));
    }
    let covered = totals[0] - totals[3] - totals[4];
    println!(
        "\n{} of {} distinct names of MLX have their place here or a reason ({covered} of {} lines \
         covered, {} left out, {} missing)",
        seen.len() - missing.len(),
        seen.len(),
        totals[0],
        totals[3],
        totals[4],
    );

    for (name, path) in &differences.paths {
        if !surface.has(path) {
            missing.push(format!("table.toml: {name} = {path}, which does not exist"));
        }
        if !seen.contains(name) {
            missing.push(format!("table.toml: MLX has no `{name}`"));
        }
    }
    for name in differences.omitted.keys() {
        let known = seen
            .iter()
            .any(|seen| seen == name || (name.ends_with("::") && seen.starts_with(name)));
        if !known {
            missing.push(format!("table.toml: MLX has no `{name}`"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "{} names are missing:\n  {}",
        missing.len(),
        missing.join("\n  ")
    )
}

fn header_names() -> Result<Vec<(String, BTreeSet<String>)>> {
    let mut line = progress::Line::new();
    let target = Backend::Cpu.target(&Target::host());
    let mlx = Mlx::packaged(
        &Cache::user()?,
        &Pins::builtin()?,
        Backend::Cpu,
        &target,
        &mut |p| {
            line.show(&p);
        },
    )?;
    let mut families: Vec<(String, BTreeSet<String>)> = Vec::new();
    for (family, file) in HEADERS {
        let path = mlx.include.join("mlx").join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let names = headers::names(&text, "mlx::core");
        match families.last_mut() {
            Some((last, all)) if last == family => all.extend(names),
            _ => families.push(((*family).to_owned(), names)),
        }
    }
    Ok(families)
}

/// The lines of `python.txt`, in MLX's C++ spelling.
fn python_names(text: &str) -> Vec<(String, BTreeSet<String>)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .map(|(module, names)| {
            let prefix = match module {
                "core" => String::new(),
                "cuda" => "cu::".to_owned(),
                other => format!("{other}::"),
            };
            let names = names
                .split(' ')
                .map(|name| format!("{prefix}{name}"))
                .collect();
            (module.to_owned(), names)
        })
        .collect()
}

fn judge(name: &str, differences: &Differences, surface: &Surface) -> Outcome {
    if let Some(path) = differences.paths.get(name) {
        return if surface.has(path) {
            Outcome::Other(path.clone())
        } else {
            Outcome::Missing
        };
    }
    if let Some(path) = places(name).into_iter().find(|path| surface.has(path)) {
        return Outcome::Same(path);
    }
    let reason = differences.omitted.iter().find(|(left_out, _)| {
        left_out.as_str() == name
            || (left_out.ends_with("::") && name.starts_with(left_out.as_str()))
    });
    match reason {
        Some((_, reason)) => Outcome::Omitted(reason.clone()),
        None => Outcome::Missing,
    }
}

/// Where users look for an MLX name.
fn places(name: &str) -> Vec<String> {
    if let Some((space, name)) = name.split_once("::") {
        return match space {
            "random" | "fast" | "linalg" | "fft" => vec![format!("mlx_core::ops::{space}::{name}")],
            "distributed" | "metal" => vec![format!("mlx_core::{space}::{name}")],
            "array" => vec![format!("mlx_core::Array::{name}")],
            _ => Vec::new(),
        };
    }
    let mut places: Vec<String> = [
        "arithmetic",
        "comparison",
        "conv",
        "indexing",
        "linalg_basic",
        "logical",
        "misc",
        "quantized",
        "reduction",
        "shape",
    ]
    .iter()
    .map(|family| format!("mlx_core::ops::{family}::{name}"))
    .collect();
    places.push(format!("mlx_core::{name}"));
    places.push(format!("mlx_core::Array::{name}"));
    let memory = name.strip_prefix("get_").unwrap_or(name);
    places.push(format!("mlx_core::memory::{memory}"));
    places.push(format!("mlx_transforms::{name}"));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_modules_take_the_spelling_of_the_headers() {
        let names = python_names("# note\ncore: abs add\nfft: rfft\ncuda: is_available");
        let all: Vec<String> = names.into_iter().flat_map(|(_, names)| names).collect();
        assert_eq!(all, ["abs", "add", "fft::rfft", "cu::is_available"]);
    }

    #[test]
    fn a_path_of_the_table_must_exist() {
        let differences = Differences {
            paths: [("acos".to_owned(), "mlx_core::nowhere".to_owned())].into(),
            omitted: [("detail::".to_owned(), "internal".to_owned())].into(),
        };
        let surface = Surface::default();
        assert_eq!(judge("acos", &differences, &surface), Outcome::Missing);
        assert_eq!(judge("other", &differences, &surface), Outcome::Missing);
        assert_eq!(
            judge("detail::x", &differences, &surface),
            Outcome::Omitted("internal".to_owned())
        );
    }
}
