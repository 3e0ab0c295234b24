//! `cargo xtask vendor`: fetches the pinned builds of MLX, and moves the pins to a new version.

mod update;

use anyhow::{Result, bail};

use crate::{
    fetch::{Backend, Cache, Mlx, Pins, Target, Tool, nvidia},
    progress,
};

/// Options of `cargo xtask vendor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fetch this build of MLX: cpu, cuda-13, cuda-12 or metal (default: this machine's)
    #[arg(long, value_name = "NAME")]
    backend: Vec<Backend>,
    /// Fetch every build of MLX and every tool
    #[arg(long, conflicts_with = "backend")]
    all: bool,
    /// With a CUDA backend: also fetch NVIDIA's run-time libraries (several gigabytes)
    #[arg(long)]
    with_nvidia: bool,
    /// Rewrite the lock file for this version of MLX; fetches only names and digests
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["backend", "all", "with_nvidia"])]
    update: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(version) = &args.update {
        return update::run(version);
    }
    let host = Target::host();
    let backends = match (args.all, args.backend.as_slice()) {
        (true, _) => Backend::ALL.to_vec(),
        (false, []) => vec![Backend::default_for(&host)],
        (false, chosen) => chosen.to_vec(),
    };
    if args.with_nvidia && !backends.iter().any(|b| b.is_cuda()) {
        bail!("--with-nvidia needs a CUDA backend: add `--backend cuda-13`");
    }
    let (cache, pins) = (Cache::user()?, Pins::builtin()?);
    let mut line = progress::Line::new();
    for backend in backends {
        let target = backend.target(&host);
        let mlx = Mlx::packaged(&cache, &pins, backend, &target, &mut |p| line.show(&p))?;
        println!("{backend}: MLX {} in {}", mlx.version, mlx.root.display());
        if args.with_nvidia && backend.is_cuda() {
            let folder = nvidia::fetch(&cache, &pins, backend, &target, &mut |p| line.show(&p))?;
            println!("{backend}: NVIDIA's libraries in {}", folder.display());
        }
    }
    // What a build needs besides MLX, so that it succeeds without a network afterwards.
    let tools: &[Tool] = if args.all { &Tool::ALL } else { &[Tool::Cmake] };
    for tool in tools {
        let path = tool.locate(&mut |p| line.show(&p))?;
        println!("{}: {}", tool.package(), path.display());
    }
    Ok(())
}
