//! `cargo xtask cross`: compiles the shim against every packaged MLX and links it, also for
//! systems that cannot be run here.
//!
//! This proves the C++ side. Rust itself is not built for the other system: that needs its SDK.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use object::{Object as _, ObjectSymbol as _};

use crate::{
    fetch::{Backend, Cache, Mlx, Pins, Target, Tool},
    progress, sh,
    table::Table,
};

#[allow(unreachable_pub, reason = "shared with the build script of mlx-sys")]
#[path = "../../crates/mlx-sys/build/stub.rs"]
mod stub;

/// Options of `cargo xtask cross`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this build of MLX: cpu, cuda-13, cuda-12 or metal (default: all)
    #[arg(long, value_name = "NAME")]
    backend: Vec<Backend>,
}

const SHIM: &str = "crates/mlx-sys/shim";
const BINDINGS: &str = "crates/mlx-sys/src/bindings.gen.rs";

pub(crate) fn run(args: &Args) -> Result<()> {
    let backends = if args.backend.is_empty() {
        &Backend::ALL[..]
    } else {
        &args.backend
    };
    let expected = bound_symbols()?;
    let (cache, pins, host) = (Cache::user()?, Pins::builtin()?, Target::host());
    let mut table = Table::new(&[
        "backend", "target", "compiler", "library", "stub", "symbols",
    ]);
    for (backend, target) in backends.iter().flat_map(|&b| targets(b, &host)) {
        let mut line = progress::Line::new();
        let mlx = Mlx::packaged(&cache, &pins, backend, &target, &mut |p| line.show(&p))?;
        let compiler = Compiler::choose(&target, &host, &mut line)?;
        let folder = sh::root().join(format!("target/cross/{backend}-{target}"));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let objects = compile(&compiler, &mlx, &folder)?;
        let (name, target_name) = (backend.to_string(), target.to_string());
        if !compiler.links {
            let no = || "not linked".to_owned();
            table.row(&[name, target_name, compiler.name, no(), no(), no()]);
            continue;
        }

        let whole = folder.join(format!("libshim.{}", compiler.suffix));
        compiler.link(&objects, &mlx.library, &whole)?;
        check(&whole, &expected, None)?;

        let stub = link_stub(&compiler, &mlx, &target, &folder)?;
        let stubbed = folder.join(format!("libshim-stub.{}", compiler.suffix));
        compiler.link(&objects, &stub, &stubbed)?;
        check(&stubbed, &expected, Some(&mlx.library))?;

        table.row(&[
            name,
            target_name,
            compiler.name,
            "links".to_owned(),
            "links".to_owned(),
            expected.len().to_string(),
        ]);
    }
    print!("{table}");
    println!(
        "not done here: building Rust for another system (it needs that system's SDK) and running \
         Metal or CUDA programs"
    );
    Ok(())
}

/// The systems to compile a build of MLX for: that for CPUs on both of Linux's processors.
fn targets(backend: Backend, host: &Target) -> Vec<(Backend, Target)> {
    let mut targets = vec![backend.target(host)];
    if backend == Backend::Cpu && host.os == "linux" {
        let other = match host.arch.as_str() {
            "x86_64" => "aarch64",
            _ => "x86_64",
        };
        targets.push(Target::new("linux", other));
    }
    targets
        .into_iter()
        .map(|target| (backend, target))
        .collect()
}

/// A C++ compiler for one target.
struct Compiler {
    name: String,
    command: Vec<PathBuf>,
    /// Lets NVIDIA's libraries stay unresolved while the shim's own symbols may not.
    link_flags: &'static [&'static str],
    /// Zig brings LLVM's standard library, and MLX's packages for Linux want GCC's.
    links: bool,
    suffix: &'static str,
}

impl Compiler {
    fn choose(target: &Target, host: &Target, line: &mut progress::Line) -> Result<Self> {
        let apple = target.os == "macos";
        let suffix = if apple { "dylib" } else { "so" };
        let link_flags: &[&str] = if apple {
            &[]
        } else {
            &["-Wl,-z,defs", "-Wl,--allow-shlib-undefined"]
        };
        if target == host {
            let program = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
            let name = program.to_string_lossy().into_owned();
            return Ok(Self {
                name,
                command: vec![program.into()],
                link_flags,
                links: true,
                suffix,
            });
        }
        let zig = Tool::Zig.locate(&mut |p| line.show(&p))?;
        let triple = match (apple, target.arch.as_str()) {
            (true, _) => "aarch64-macos.14.0",
            (false, "aarch64") => "aarch64-linux-gnu.2.35",
            (false, _) => "x86_64-linux-gnu.2.35",
        };
        let command = vec![zig, "c++".into(), "-target".into(), triple.into()];
        Ok(Self {
            name: format!("zig c++ -target {triple}"),
            command,
            link_flags,
            links: apple,
            suffix,
        })
    }

    fn start(&self) -> Command {
        let mut parts = self.command.iter();
        let mut command = Command::new(parts.next().map_or(Path::new("c++"), PathBuf::as_path));
        command.args(parts);
        command
    }

    fn link(&self, objects: &[PathBuf], library: &Path, output: &Path) -> Result<()> {
        let mut command = self.start();
        command
            .arg("-shared")
            .args(objects)
            .arg(library)
            .args(self.link_flags)
            .arg("-o")
            .arg(output);
        sh::read(&mut command).with_context(|| format!("link {}", output.display()))?;
        Ok(())
    }
}

/// Compiles what changed since the last time. Unoptimised code calls every inline function of
/// MLX's headers, so that it needs at least the symbols that the real build needs.
fn compile(compiler: &Compiler, mlx: &Mlx, folder: &Path) -> Result<Vec<PathBuf>> {
    let shim = sh::root().join(SHIM);
    let mut sources = Vec::new();
    let mut newest_header = modified(&mlx.library)?;
    let read =
        |folder: &Path| fs::read_dir(folder).with_context(|| format!("read {}", folder.display()));
    for entry in read(&shim)?.chain(read(&shim.join("cpu"))?) {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("cpp") => sources.push(path),
            Some("h" | "hpp" | "inl") => newest_header = newest_header.max(modified(&path)?),
            _ => {}
        }
    }
    sources.sort();
    let mut objects = Vec::new();
    for source in sources {
        let object = folder
            .join(source.file_name().context("a source has a name")?)
            .with_extension("o");
        let needed = modified(&source)?.max(newest_header);
        if modified(&object).is_ok_and(|made| made > needed) {
            objects.push(object);
            continue;
        }
        let mut command = compiler.start();
        command
            .args(["-std=c++20", "-O0", "-fPIC", "-c"])
            .arg("-isystem")
            .arg(&mlx.include)
            .arg(&source)
            .arg("-o")
            .arg(&object);
        sh::read(&mut command)
            .with_context(|| format!("compile {} for {}", source.display(), compiler.name))?;
        objects.push(object);
    }
    Ok(objects)
}

/// The stub that the build script would make, in the form that a linker takes.
fn link_stub(compiler: &Compiler, mlx: &Mlx, target: &Target, folder: &Path) -> Result<PathBuf> {
    let symbols = stub::symbols(&mlx.library).map_err(anyhow::Error::msg)?;
    if target.os == "macos" {
        let path = folder.join("libmlxlink.tbd");
        fs::write(&path, stub::apple_tbd(&symbols, &mlx.library, &target.arch))?;
        return Ok(path);
    }
    let assembly = folder.join("mlxlink.s");
    fs::write(&assembly, stub::elf_assembly(&symbols))?;
    let path = folder.join("libmlxlink.so");
    let mut command = compiler.start();
    command
        .args(["-shared", "-nostdlib", "-fPIC"])
        .arg(&assembly)
        .arg("-Xlinker")
        .arg("-soname");
    command
        .arg("-Xlinker")
        .arg(&mlx.library)
        .arg("-o")
        .arg(&path);
    sh::read(&mut command).context("link the stub")?;
    Ok(path)
}

/// The linked shim defines every function that Rust declares, and, if it was linked with the
/// stub, asks for MLX by its absolute path.
fn check(library: &Path, expected: &[String], named: Option<&Path>) -> Result<()> {
    let data = fs::read(library).with_context(|| format!("read {}", library.display()))?;
    let file =
        object::File::parse(&*data).with_context(|| format!("parse {}", library.display()))?;
    let defined: std::collections::HashSet<_> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|s| s.is_definition())
        .filter_map(|s| s.name().ok())
        .map(|name| {
            name.strip_prefix("_mlxs_")
                .or_else(|| name.strip_prefix("mlxs_"))
                .unwrap_or(name)
        })
        .collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|name| !defined.contains(name.as_str()))
        .collect();
    if !missing.is_empty() {
        bail!(
            "{}: declared but not defined: {missing:?}",
            library.display()
        );
    }
    if let Some(path) = named {
        let wanted = path.display().to_string();
        if !data
            .windows(wanted.len())
            .any(|window| window == wanted.as_bytes())
        {
            bail!("{} does not name {wanted}", library.display());
        }
    }
    Ok(())
}

/// The functions that the bindings declare, without their prefix.
fn bound_symbols() -> Result<Vec<String>> {
    let text = fs::read_to_string(sh::root().join(BINDINGS))
        .with_context(|| format!("read {BINDINGS}"))?;
    let names: Vec<String> = text
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("#[link_name = ")?
                .split_once("mlxs_")
        })
        .filter_map(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()))
        .collect();
    if names.is_empty() {
        bail!("{BINDINGS} declares no function: run `cargo xtask bindgen`");
    }
    Ok(names)
}

fn modified(path: &Path) -> Result<SystemTime> {
    let time = fs::metadata(path).and_then(|m| m.modified());
    time.with_context(|| format!("look at {}", path.display()))
}
