//! A package index that fits in a folder: wheels made on the spot and a `python3` on a search
//! path of its own that hands them out. No test here touches the network or the user's cache.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mlx_sys::vendor::{Cache, Error, Package, Pins, Target};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) const WHEEL: &str = "demo-1.0-py3-none-any.whl";

/// What the pretended pip does when it is asked to download.
pub(crate) enum Pip {
    /// Copies the wheel to where it is wanted.
    Works,
    /// The same, after a while.
    WorksSlowly,
    /// Prints this and fails.
    Says(&'static str),
    /// There is no pip at all.
    Absent,
}

/// A cache with a pretended index of one package.
pub(crate) struct Setup {
    folder: TempDir,
    pub(crate) pins: Pins,
}

impl Setup {
    pub(crate) fn new(members: &[(&str, &[u8])], pip: &Pip) -> Self {
        Self::with_wheel(&wheel(members), "kind = \"mlx\"", pip)
    }

    /// `extra` is the rest of the package's entry in the lock file.
    pub(crate) fn with_wheel(wheel: &[u8], extra: &str, pip: &Pip) -> Self {
        Self::with_packages(&[("demo", extra, wheel)], pip)
    }

    /// Several packages, all at version 1.0: name, rest of the lock file's entry, wheel.
    pub(crate) fn with_packages(packages: &[(&str, &str, &[u8])], pip: &Pip) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = "mlx = \"1.0\"\n".to_owned();
        for (name, extra, wheel) in packages {
            let file = format!("{}-1.0-py3-none-any.whl", name.replace('-', "_"));
            fs::write(folder.path().join(&file), wheel).unwrap();
            let digest: String = Sha256::digest(wheel)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            lock.push_str(&format!(
                "[[package]]\nname = \"{name}\"\nversion = \"1.0\"\n{extra}\n\
                 [[package.file]]\ntarget = \"any\"\nname = \"{file}\"\nsha256 = \"{digest}\"\n"
            ));
        }
        let setup = Self {
            folder,
            pins: Pins::parse(&lock).unwrap(),
        };
        setup.set_pip(pip);
        setup
    }

    pub(crate) fn set_pip(&self, pip: &Pip) {
        let bin = self.path("bin");
        let _ = fs::remove_dir_all(&bin);
        fs::create_dir(&bin).unwrap();
        let copy = format!(
            "for last; do :; done\nmkdir -p \"$last\" && cp '{}'/*.whl \"$last/\"",
            self.folder.path().display()
        );
        let download = match pip {
            Pip::Works => copy,
            Pip::WorksSlowly => format!("sleep 0.3\n{copy}"),
            Pip::Says(text) => format!("cat >&2 <<'END'\n{text}\nEND\nexit 1"),
            Pip::Absent => return,
        };
        let script = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\n[ \"$3\" = --version ] && exit 0\n\
             echo \"$@\" >> '{}'\n{download}\n",
            self.path("calls").display()
        );
        write_program(&bin.join("python3"), &script);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::at(self.path("cache")).search_path(self.path("bin"))
    }

    pub(crate) fn package(&self) -> &Package {
        self.pins.package("demo").unwrap()
    }

    pub(crate) fn fetch(&self) -> Result<PathBuf, Error> {
        self.cache()
            .fetch(self.package(), &Target::host(), &mut |_| {})
    }

    /// How often pip was asked for a download.
    pub(crate) fn calls(&self) -> usize {
        fs::read_to_string(self.path("calls"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// The error of a fetch, after checking that it reads well and that nothing was left behind.
    pub(crate) fn fetch_error(&self, words: &[&str]) -> Error {
        let error = self.fetch().expect_err("the fetch fails");
        assert_reads_well(&error, words);
        assert!(
            !self.path("cache/dist/demo-1.0").exists(),
            "something half-made is in the cache"
        );
        assert_eq!(entries(&self.path("cache/tmp")), Vec::<PathBuf>::new());
        error
    }
}

/// Another process writes the file: were it this one, a thread that starts a program at the same
/// moment would hold it open, and the system refuses to run a file that is open for writing.
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(shell.wait().unwrap().success());
}

/// One line that holds all the given words.
pub(crate) fn assert_reads_well(error: &Error, words: &[&str]) {
    let text = error.one_line();
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing from: {text}");
    }
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or_else(
        |_| Vec::new(),
        |all| all.map(|e| e.unwrap().path()).collect(),
    )
}

/// A wheel with these members.
pub(crate) fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
