//! Relative links in Markdown lead somewhere.

use super::Finding;
use super::source::SourceFile;

/// `exists` is asked about paths relative to the workspace root.
pub(super) fn check(file: &SourceFile, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for target in targets(line).filter(|target| !exists(&resolve(&file.path, target))) {
            let place = format!("{}:{}", file.path, number + 1);
            findings.push(Finding::error(
                place,
                format!("the link to `{target}` is broken"),
            ));
        }
    }
    findings
}

/// What the links of a line point at, without fragments; addresses are skipped.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](")
        .filter_map(|(start, open)| line[start + open.len()..].split(')').next())
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty() && !target.contains(':'))
}

fn resolve(from: &str, target: &str) -> String {
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_resolve_from_their_file() {
        let file = SourceFile::new("docs/a.md", "[x](../README.md#try) [y](b.md) [z](c/)");
        let known = ["README.md", "docs/b.md", "docs/c"];
        assert_eq!(check(&file, |path| known.contains(&path)), []);
        assert_eq!(check(&file, |path| path == "README.md").len(), 2);
    }

    #[test]
    fn addresses_and_fragments_are_not_followed() {
        let file = SourceFile::new("a.md", "[x](https://example.com/a.md) [y](#here) f(x)");
        assert_eq!(check(&file, |_| false), []);
    }
}
