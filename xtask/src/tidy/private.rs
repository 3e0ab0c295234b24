//! Nothing in the repository names the machine it was written on, or a package
//! index: paths come from the platform, packages by name from what pip uses.

use super::Finding;
use super::source::SourceFile;

/// Folders of somebody's machine. Only as the start of an absolute path.
const FOLDERS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/tm", "p/"),
];

/// Hosts of package indexes and of the mirrors that stand in for them.
const HOSTS: &[&str] = &[
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("registry.npm", "js.org"),
    concat!("deb.", "debian.org"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let folder = FOLDERS.iter().find(|folder| starts_a_path(line, folder));
        let host = HOSTS.iter().find(|host| line.contains(**host));
        let place = || format!("{}:{}", file.path, number + 1);
        if let Some(folder) = folder {
            findings.push(Finding::error(
                place(),
                format!("a path of one machine: `{folder}`"),
            ));
        }
        if let Some(host) = host {
            findings.push(Finding::error(
                place(),
                format!("a package host by name: `{host}`"),
            ));
        }
    }
    findings
}

fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*~>$)".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        check(&SourceFile::new("a.rs", text)).len()
    }

    #[test]
    fn absolute_paths_of_a_machine_are_findings() {
        assert_eq!(count(concat!("let x = \"/wo", "rk/main\";")), 1);
        assert_eq!(count(concat!("cd /ho", "me/me/src")), 1);
    }

    #[test]
    fn relative_paths_are_not() {
        assert_eq!(
            count(concat!("see crates/wo", "rk/x and $HOME/wo", "rk/y")),
            0
        );
    }

    #[test]
    fn package_hosts_are_findings() {
        assert_eq!(count(concat!("--index-url https://pypi", ".org/simple")), 1);
    }
}
