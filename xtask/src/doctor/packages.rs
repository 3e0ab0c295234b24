//! The cache, MLX itself and the real models.

use std::path::Path;
use std::process::Command;

use super::{Fact, version};
use crate::fetch::{Backend, Cache, Kind, Mlx, Pins, Target};
use crate::sh;

/// A build with its target folder, MLX and the models need about this much.
const NEEDED_GIB: u64 = 10;

pub(super) fn facts() -> Vec<Fact> {
    let mut facts = vec![disk("disk, target", &sh::root())];
    let (cache, pins) = match (Cache::user(), Pins::builtin()) {
        (Ok(cache), Ok(pins)) => (cache, pins),
        (Err(error), _) | (_, Err(error)) => {
            facts.push(Fact::missing(
                "cache",
                error.to_string(),
                "set MLX_CACHE_DIR",
            ));
            return facts;
        }
    };
    facts.push(folder(cache.root()));
    if cache.root().is_dir() {
        facts.push(disk("disk, cache", cache.root()));
    }
    facts.push(mlx(&cache, &pins));
    facts.extend(models(&cache, &pins));
    facts
}

fn folder(root: &Path) -> Fact {
    let offline = std::env::var_os("MLX_SYS_OFFLINE").is_some_and(|value| value == "1");
    let note = if offline {
        ", MLX_SYS_OFFLINE=1: nothing is fetched"
    } else {
        ""
    };
    if root.is_dir() {
        Fact::ok("cache", format!("{}{note}", root.display()))
    } else {
        Fact::absent(
            "cache",
            format!("{}{note}", root.display()),
            "it is made on first use",
        )
    }
}

fn disk(name: &'static str, path: &Path) -> Fact {
    // `df -Pk` is the spelling that every Unix knows.
    let text = sh::read(Command::new("df").arg("-Pk").arg(path)).unwrap_or_default();
    match free_gib(&text) {
        Some(free) if free < NEEDED_GIB => Fact::missing(
            name,
            format!("{free} GiB free"),
            format!("free {NEEDED_GIB} GiB, or set CARGO_TARGET_DIR and MLX_CACHE_DIR"),
        ),
        Some(free) => Fact::ok(name, format!("{free} GiB free")),
        None => Fact::absent(name, "unknown", format!("{NEEDED_GIB} GiB are needed")),
    }
}

/// The fourth column of the second line: kilobytes available.
fn free_gib(df: &str) -> Option<u64> {
    let kilobytes: u64 = df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kilobytes >> 20)
}

fn mlx(cache: &Cache, pins: &Pins) -> Fact {
    const NAME: &str = "mlx";
    let target = Target::host();
    if let Some(root) = std::env::var_os("MLX_DIR") {
        return match Mlx::installed(Path::new(&root), &target, &pins.mlx) {
            Ok(mlx) => Fact::ok(
                NAME,
                format!("{} in MLX_DIR ({})", mlx.version, mlx.root.display()),
            ),
            Err(error) => Fact::missing(NAME, error.to_string(), "correct or unset MLX_DIR"),
        };
    }
    let package = pins.package(Backend::default_for(&target).package());
    match package.and_then(|package| Ok((package, cache.find(package, &target)?))) {
        Ok((package, Some(folder))) => Fact::ok(
            NAME,
            format!(
                "{} {} in {}",
                package.name,
                package.version,
                folder.display()
            ),
        ),
        Ok((package, None)) => Fact::absent(
            NAME,
            format!("{} {} is not in the cache", package.name, package.version),
            "the build fetches it; by hand: `cargo xtask vendor`",
        ),
        Err(error) => Fact::missing(NAME, error.to_string(), "set MLX_DIR to an installed MLX"),
    }
}

fn models(cache: &Cache, pins: &Pins) -> Vec<Fact> {
    let target = Target::host();
    let packages = pins
        .packages
        .iter()
        .filter(|package| package.kind == Kind::Model);
    packages
        .map(|package| match cache.find(package, &target) {
            Ok(Some(folder)) => Fact::ok("model", folder.display().to_string()),
            _ => Fact::absent(
                "model",
                format!("{} is not in the cache", package.name),
                format!(
                    "fetched on first use; by hand: `cargo xtask models fetch {}`",
                    package.name
                ),
            ),
        })
        .collect()
}

/// Whether the Python peers that `parity` uses are installed.
pub(super) fn peers() -> Fact {
    let python = crate::parity::venv().map(|venv| crate::parity::python(&venv));
    match python {
        Ok(python) if python.is_file() => {
            let found = version(&python.to_string_lossy(), &["--version"]).unwrap_or_default();
            Fact::ok("python peers", format!("{found} in {}", python.display()))
        }
        _ => Fact::absent("python peers", "none", "`cargo xtask parity` installs them"),
    }
}

#[cfg(test)]
mod tests {
    use super::free_gib;

    #[test]
    fn free_space_is_read_from_df() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                    /dev/vda 263112772 18874368 77594624 20% /\n";
        assert_eq!(free_gib(text), Some(74));
        assert_eq!(free_gib("df: no such file"), None);
    }
}
