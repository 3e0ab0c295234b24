//! Every registered architecture has golden fixtures.

use super::Finding;
use super::source::SourceFile;

/// Each registry with the fixture folder of its crate.
const REGISTRIES: &[(&str, &str)] = &[("crates/mlx-lm/src/registry.rs", "tests/fixtures/lm")];

pub(super) fn check(sources: &[SourceFile], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (registry, fixtures) in REGISTRIES {
        let Some(file) = sources.iter().find(|file| file.path == *registry) else {
            continue;
        };
        let types = registered(&file.text);
        if types.is_empty() {
            findings.push(Finding::error(
                *registry,
                "no `architectures! { … }` lines found",
            ));
        }
        for model_type in types {
            let folder = format!("{fixtures}/{model_type}");
            // The text part of a wrapper goes by its own type inside the wrapper's configuration.
            let wrapper = folder.strip_suffix("_text");
            if !exists(&folder) && !wrapper.is_some_and(&exists) {
                findings.push(Finding::error(
                    *registry,
                    format!("`{model_type}` has no golden fixtures: {folder}/ is missing"),
                ));
            }
        }
    }
    findings
}

/// Every `model_type` that is registered: all of each line `module: "type" | "alias",` between
/// `architectures! {` and the closing brace, and the wrappers of which the language model is loaded.
fn registered(text: &str) -> Vec<String> {
    let block = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        Some(rest.split_once(end).map_or(rest, |(body, _)| body))
    };
    let architectures = block("\narchitectures! {", "\n}").unwrap_or_default();
    let wrappers = block("\nconst WRAPPERS:", "\n];").unwrap_or_default();
    let types = code(architectures).flat_map(|line| quoted(line).collect::<Vec<_>>());
    let outer = code(wrappers).filter_map(|line| quoted(line).next());
    let mut all: Vec<String> = types.chain(outer).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

fn code(body: &str) -> impl Iterator<Item = &str> {
    body.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
}

/// What stands between quotation marks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "macro_rules! architectures { () => {} }\n\narchitectures! {\n    \
        llama: \"llama\" | \"mistral\",\n    // A comment about \"nothing\".\n    \
        qwen3: \"qwen3\" | \"qwen3_vl_text\",\n}\n\nconst WRAPPERS: &[(&str, &str)] = &[\n    \
        (\"qwen3_vl\", \"qwen3\"),\n];\n\nconst OTHER: &str = \"other\";\n";

    #[test]
    fn every_type_alias_and_wrapper_is_named_once() {
        let expected = ["llama", "mistral", "qwen3", "qwen3_vl", "qwen3_vl_text"];
        assert_eq!(registered(REGISTRY), expected);
    }

    fn missing(exists: impl Fn(&str) -> bool) -> Vec<String> {
        let sources = [SourceFile::new("crates/mlx-lm/src/registry.rs", REGISTRY)];
        let findings = check(&sources, exists).into_iter();
        findings.map(|finding| finding.message).collect()
    }

    #[test]
    fn a_type_without_fixtures_is_a_finding() {
        let present =
            ["llama", "mistral", "qwen3_vl"].map(|name| format!("tests/fixtures/lm/{name}"));
        let found = missing(|folder| present.iter().any(|name| name == folder));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`qwen3`"), "{found:?}");
    }

    #[test]
    fn an_alias_without_fixtures_is_a_finding() {
        let found = missing(|folder| !folder.ends_with("/mistral"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`mistral`"), "{found:?}");
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_a_finding() {
        let sources = [SourceFile::new("crates/mlx-lm/src/registry.rs", "")];
        assert_eq!(check(&sources, |_| true).len(), 1);
    }
}
