//! The dependency law: crates depend downwards only.

use super::Finding;
use crate::metadata::Package;

/// Each crate with the workspace crates it may depend on. A crate that is not
/// listed here is an error: a new crate states its place first.
const LAW: &[(&str, &[&str])] = &[
    ("mlx-sys", &[]),
    ("mlx-core", &["mlx-sys"]),
    ("mlx-transforms", &["mlx-core", "mlx-sys"]),
    ("mlx-nn-derive", &[]),
    ("mlx-nn", &["mlx-nn-derive", "mlx-transforms", "mlx-core"]),
    (
        "mlx-lm",
        &["mlx-nn", "mlx-transforms", "mlx-core", "mlx-sys"],
    ),
    (
        "mlx-vlm",
        &["mlx-lm", "mlx-nn", "mlx-transforms", "mlx-core", "mlx-sys"],
    ),
    (
        "mlx-audio",
        &["mlx-lm", "mlx-nn", "mlx-transforms", "mlx-core", "mlx-sys"],
    ),
    (
        "mlx-embed",
        &[
            "mlx-vlm?",
            "mlx-audio?",
            "mlx-lm",
            "mlx-nn",
            "mlx-transforms",
            "mlx-core",
            "mlx-sys",
        ],
    ),
    ("xtask", &[]),
];

/// The package of cross-crate tests stands on top of everything.
const TOP: &str = "mlx-tests";

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.iter().filter(|package| package.name != TOP) {
        let Some((_, allowed)) = LAW.iter().find(|(name, _)| *name == package.name) else {
            findings.push(Finding::error(
                &package.name,
                "unknown crate: state its place in the dependency law (xtask/src/tidy/graph.rs)",
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let member = packages.iter().any(|other| other.name == dependency.name);
            // A crate may enable its own features for its tests.
            if !member || dependency.name == package.name {
                continue;
            }
            let behind_a_feature = format!("{}?", dependency.name);
            let lawful = allowed.contains(&dependency.name.as_str())
                || (dependency.optional && allowed.contains(&behind_a_feature.as_str()));
            if !lawful {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                findings.push(Finding::error(
                    &package.name,
                    format!(
                        "{kind} dependency on `{}` breaks the dependency law",
                        dependency.name
                    ),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependency = |&(name, optional): &(&str, bool)| Dependency {
            name: name.to_owned(),
            kind: None,
            optional,
        };
        Package {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
            features: BTreeMap::new(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn downward_and_foreign_dependencies_are_lawful() {
        let packages = [
            package("mlx-sys", &[("cmake", false), ("mlx-sys", false)]),
            package("mlx-core", &[("mlx-sys", false), ("half", true)]),
            package("mlx-tests", &[("mlx-core", false), ("mlx-sys", false)]),
        ];
        assert_eq!(check(&packages), []);
    }

    #[test]
    fn upward_and_sideways_dependencies_are_findings() {
        let packages = [
            package("mlx-core", &[("mlx-nn", false)]),
            package("mlx-nn", &[]),
            package("mlx-audio", &[("mlx-vlm", false)]),
            package("mlx-vlm", &[]),
            package("xtask", &[("mlx-core", false)]),
        ];
        let places: Vec<_> = check(&packages)
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(places, ["mlx-core", "mlx-audio", "xtask"]);
    }

    #[test]
    fn embeddings_use_other_modalities_behind_features_only() {
        let with = |optional| {
            [
                package("mlx-embed", &[("mlx-vlm", optional)]),
                package("mlx-vlm", &[]),
            ]
        };
        assert_eq!(check(&with(true)), []);
        assert_eq!(check(&with(false)).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_a_finding() {
        assert!(
            check(&[package("mlx-new", &[])])[0]
                .message
                .contains("state its place")
        );
    }
}
