//! docs/PORTING.md names items that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::Outcome;

/// The names of the public items that the sources below `folder` declare.
fn declared(folder: &Path, names: &mut BTreeSet<String>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            declared(&path, names)?;
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let line = line.trim_start();
            // `pub fn name(`, `pub unsafe fn name<`, `pub struct Name {`, …
            let item = line.strip_prefix("pub ").and_then(|rest| {
                let mut words = rest.split([' ', '(', '<', ';', ':', '{']);
                words
                    .by_ref()
                    .find(|word| ["fn", "struct", "enum", "trait", "type", "mod"].contains(word))
                    .and_then(|_| words.next())
            });
            // Items made by macros: `name => …;` and `name;`.
            let made = line
                .split_once(" => ")
                .map(|(name, _)| name)
                .or_else(|| line.strip_suffix(';'));
            for name in [item, made].into_iter().flatten() {
                names.insert(name.trim_start_matches("r#").to_owned());
            }
        }
    }
    Ok(())
}

/// A path in backticks, without what is code or belongs to the standard library.
fn path(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    (text.chars().all(plain) && !text.starts_with("std::") && !text.starts_with("f32::"))
        .then_some(text)
}

#[test]
fn every_path_exists() -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    for crate_name in ["mlx-core", "mlx-transforms"] {
        declared(
            &root.join("crates").join(crate_name).join("src"),
            &mut names,
        )?;
    }
    let mut checked = 0;
    let mut unknown = Vec::new();
    for row in fs::read_to_string(root.join("docs/PORTING.md"))?.lines() {
        // The second cell of a table's row.
        let Some(cell) = row
            .strip_prefix("| ")
            .and_then(|row| row.split(" | ").nth(1))
        else {
            continue;
        };
        for path in cell.split('`').skip(1).step_by(2).filter_map(path) {
            let segments: Vec<&str> = path.split("::").collect();
            let known = segments.iter().all(|segment| {
                *segment == "mlx_transforms" || *segment == "Display" || names.contains(*segment)
            });
            checked += 1;
            if !known {
                unknown.push(path.to_owned());
            }
        }
    }
    assert!(unknown.is_empty(), "docs/PORTING.md names {unknown:?}");
    assert!(checked > 300, "only {checked} paths were found");
    Ok(())
}
