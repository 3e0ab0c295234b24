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
            if !exists(&folder) {
                findings.push(Finding::error(
                    *registry,
                    format!("`{model_type}` has no golden fixtures: {folder}/ is missing"),
                ));
            }
        }
    }
    findings
}

/// The first `model_type` of each line `module: "type" | "alias",` between
/// `architectures! {` and the closing brace. Aliases share the architecture's
/// code and so its fixtures.
fn registered(text: &str) -> Vec<String> {
    let Some((_, rest)) = text.split_once("\narchitectures! {") else {
        return Vec::new();
    };
    let body = rest.split_once("\n}").map_or(rest, |(body, _)| body);
    body.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .filter_map(|line| line.split('"').nth(1).map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "macro_rules! architectures { () => {} }\n\narchitectures! {\n    \
        llama: \"llama\" | \"mistral\",\n    // A comment about \"nothing\".\n    \
        qwen3: \"qwen3\",\n}\n\nconst OTHER: &str = \"other\";\n";

    #[test]
    fn each_line_names_its_architecture_once() {
        assert_eq!(registered(REGISTRY), ["llama", "qwen3"]);
    }

    #[test]
    fn an_architecture_without_fixtures_is_a_finding() {
        let sources = [SourceFile::new("crates/mlx-lm/src/registry.rs", REGISTRY)];
        let found = check(&sources, |folder| folder == "tests/fixtures/lm/llama");
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("qwen3"), "{:?}", found[0]);
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_a_finding() {
        let sources = [SourceFile::new("crates/mlx-lm/src/registry.rs", "")];
        assert_eq!(check(&sources, |_| true).len(), 1);
    }
}
