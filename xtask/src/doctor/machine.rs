//! The processor and the accelerators.

use std::path::Path;

use super::{Fact, packages, version};

pub(super) fn facts() -> Vec<Fact> {
    vec![
        processor(),
        kernels(),
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

/// What computes on the CPU, by the rules of crates/mlx-sys/shim/cpu/support.cpp.
fn kernels() -> Fact {
    const NAME: &str = "cpu kernels";
    if cfg!(target_os = "macos") {
        return Fact::ok(NAME, "MLX's own, on Accelerate");
    }
    let setting = std::env::var("MLX_CPU_KERNELS").unwrap_or_default();
    if setting == "off" {
        return Fact::ok(
            NAME,
            "MLX's own and the packaged BLAS, by MLX_CPU_KERNELS=off",
        );
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let asked = std::env::var("MLX_CPU_THREADS").ok();
    let threads = asked.and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    let level = kernel_level(&all_flags(&cpuinfo), &setting);
    let threads = threads.unwrap_or(cores);
    Fact::ok(
        NAME,
        format!("{level}, BLAS of mlx-core, {threads} threads"),
    )
}

/// The kernels for a processor with these flags under a value of `MLX_CPU_KERNELS`.
fn kernel_level(flags: &[&str], setting: &str) -> &'static str {
    let has = |wanted: &[&str]| wanted.iter().all(|flag| flags.contains(flag));
    if setting == "portable" {
        "portable"
    } else if setting != "avx2" && has(&["avx512f", "avx512bw", "avx512dq", "avx512vl"]) {
        if setting == "avx512" {
            "avx512"
        } else {
            "avx512 with products in integers"
        }
    } else if has(&["avx2", "fma"]) {
        "avx2 with products in integers"
    } else {
        "portable"
    }
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
    let mut flags = all_flags(cpuinfo);
    flags.retain(|flag| WANTED.contains(flag));
    flags
}

fn all_flags(cpuinfo: &str) -> Vec<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags = line
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, flags)| flags);
    flags.split_whitespace().collect()
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
    use super::{kernel_level, vector_flags};

    #[test]
    fn kernels_follow_the_processor_and_the_setting() {
        let old = ["sse2"];
        let haswell = ["avx2", "fma"];
        let skylake = ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"];
        assert_eq!(kernel_level(&old, ""), "portable");
        let (eight, sixteen) = (
            "avx2 with products in integers",
            "avx512 with products in integers",
        );
        assert_eq!(kernel_level(&haswell, ""), eight);
        assert_eq!(kernel_level(&skylake, ""), sixteen);
        assert_eq!(kernel_level(&skylake, "avx2"), eight);
        assert_eq!(kernel_level(&skylake, "avx512"), "avx512");
        assert_eq!(kernel_level(&skylake, "portable"), "portable");
    }

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
