//! Rules on crate manifests: one version per dependency, one set of lints.

use super::Finding;
use super::source::SourceFile;

pub(super) fn check(sources: &[SourceFile]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.contains("/fixtures/"))
        .flat_map(check_manifest)
        .collect()
}

fn check_manifest(file: &SourceFile) -> Vec<Finding> {
    let manifest: toml::Table = match file.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![Finding::error(&file.path, format!("not TOML: {error}"))],
    };
    let mut findings = Vec::new();
    if !inherits(manifest.get("lints")) {
        findings.push(Finding::error(&file.path, "add `[lints] workspace = true`"));
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let dependencies = manifest.get(section).and_then(toml::Value::as_table);
        for (name, value) in dependencies.into_iter().flatten() {
            // A crate names itself by path to switch on features for its own tests.
            let is_self = value.get("path").and_then(toml::Value::as_str) == Some(".");
            if !inherits(Some(value)) && !is_self {
                findings.push(Finding::error(
                    &file.path,
                    format!("`{name}` takes its version from the root: `{name}.workspace = true`"),
                ));
            }
        }
    }
    findings
}

fn inherits(value: Option<&toml::Value>) -> bool {
    value
        .and_then(|value| value.get("workspace"))
        .and_then(toml::Value::as_bool)
        == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<Finding> {
        check(&[SourceFile::new("crates/a/Cargo.toml", text)])
    }

    #[test]
    fn inherited_manifests_pass() {
        let text = "[lints]\nworkspace = true\n[dependencies]\na.workspace = true\n\
            b = { workspace = true, optional = true }\n[dev-dependencies]\nme = { path = \".\" }";
        assert_eq!(findings(text), []);
    }

    #[test]
    fn own_versions_and_own_lints_are_findings() {
        let found = findings("[build-dependencies]\ncmake = \"0.1\"");
        assert_eq!(found.len(), 2);
        assert!(found[1].message.contains("cmake"), "{:?}", found[1]);
    }
}
