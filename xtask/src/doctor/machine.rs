//! The processor and the accelerators.

use std::path::Path;

use super::{Fact, packages, version};

pub(super) fn facts() -> Vec<Fact> {
    vec![
        processor(),
        nvidia_driver(),
        nvidia_libraries(),
        metal(),
        packages::peers(),
    ]
}

fn processor() -> Fact {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = vector_flags(&info).join(" ");
    Fact::ok(
        "processor",
        format!("{}, {cores} cores {flags}", std::env::consts::ARCH)
            .trim()
            .to_owned(),
    )
}

/// The instruction sets that decide how fast matrix products are.
fn vector_flags(cpuinfo: &str) -> Vec<&str> {
    const WANTED: &[&str] = &[
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512_bf16",
        "amx_bf16",
        "asimd",
        "bf16",
        "sve",
    ];
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags = line
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, flags)| flags);
    flags
        .split_whitespace()
        .filter(|flag| WANTED.contains(flag))
        .collect()
}

fn nvidia_driver() -> Fact {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    match version("nvidia-smi", &query) {
        Some(found) => Fact::ok("nvidia driver", found),
        None => Fact::absent(
            "nvidia driver",
            "none",
            "needed for the features `cuda` and `cuda-12` only",
        ),
    }
}

/// What the packaged CUDA build of MLX loads at run time.
fn nvidia_libraries() -> Fact {
    const NAME: &str = "nvidia libraries";
    let listing = version_lines("ldconfig", &["-p"]);
    let wanted = ["libcublasLt", "libcufft", "libnvrtc", "libcudnn", "libnccl"];
    let lacking: Vec<_> = wanted
        .iter()
        .filter(|name| !listing.iter().any(|line| line.contains(**name)))
        .collect();
    if lacking.is_empty() {
        return Fact::ok(NAME, "all on the system's search path");
    }
    let lacking = lacking
        .iter()
        .map(|name| **name)
        .collect::<Vec<_>>()
        .join(", ");
    Fact::absent(
        NAME,
        format!("not on the system's search path: {lacking}"),
        "for CUDA: `cargo xtask vendor --backend cuda-13 --with-nvidia`",
    )
}

fn version_lines(program: &str, arguments: &[&str]) -> Vec<String> {
    let text = crate::sh::read(std::process::Command::new(program).args(arguments));
    text.unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn metal() -> Fact {
    const NAME: &str = "metal";
    if !Path::new("/System/Library/Frameworks/Metal.framework").exists() {
        return Fact::absent(NAME, "no Metal framework", "needs macOS on Apple silicon");
    }
    match version("xcrun", &["--find", "metal"]) {
        Some(path) => Fact::ok(NAME, path),
        None => Fact::absent(
            NAME,
            "framework present, compiler absent",
            "only `cargo xtask metal` needs it: install Xcode",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::vector_flags;

    #[test]
    fn vector_flags_are_read_on_both_architectures() {
        let intel = "processor: 0\nflags\t\t: fpu sse avx2 fma avx512f\n";
        assert_eq!(vector_flags(intel), ["avx2", "fma", "avx512f"]);
        assert_eq!(
            vector_flags("Features\t: fp asimd bf16\n"),
            ["asimd", "bf16"]
        );
        assert_eq!(vector_flags(""), [""; 0]);
    }
}
