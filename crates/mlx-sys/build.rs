//! Finds MLX (or fetches it), builds the C++ shim and says how to link both.
//!
//! The steps live in `src/vendor.rs` and `build/stub.rs`; this file puts them in order.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use vendor::{Backend, Mlx, Progress, Target, Tool};

#[allow(unreachable_pub, reason = "shared with xtask")]
#[path = "build/stub.rs"]
mod stub;
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared with the library, which uses more of it"
)]
#[path = "src/vendor.rs"]
mod vendor;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Err(message) = run() {
        // Cargo then fails the build and shows this line alone.
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn run() -> Result<(), String> {
    for name in [
        "MLX_DIR",
        "MLX_CACHE_DIR",
        "MLX_SYS_LINK",
        "CMAKE",
        "CXX",
        "CXXFLAGS",
        "CMAKE_GENERATOR",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=shim");
    let target = Target::new(
        variable("CARGO_CFG_TARGET_OS")?,
        variable("CARGO_CFG_TARGET_ARCH")?,
    );
    let out = PathBuf::from(variable("OUT_DIR")?);
    let mut progress = |progress: Progress| {
        // Cargo shows a build script's output only with `-vv`, or when it fails.
        if let Progress::Ready { package, folder } = progress {
            println!("fetched {package} into {}", folder.display());
        }
    };

    let backend = backend(&target)?;
    let mlx = Mlx::locate(backend, &target, &mut progress).map_err(|e| e.one_line())?;
    println!("cargo::rerun-if-changed={}", mlx.library.display());
    println!(
        "cargo::rerun-if-changed={}",
        mlx.include.join("mlx/version.h").display()
    );
    if backend.is_cuda()
        && !mlx.installed
        && vendor::nvidia::link_installed(parent(&mlx.root)).is_none()
    {
        println!(
            "cargo::warning=NVIDIA's libraries (cuBLAS, cuDNN, …) are neither beside MLX nor among Python's \
             packages: programs need them on the system's library path, or run \
             `cargo xtask vendor --backend {backend} --with-nvidia`"
        );
    }
    let library = link_library(&mlx, &target, &out)?;
    let lib = build_shim(&mlx, &library, &out, &mut progress)?;

    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=mlxshim");
    match library {
        Library::Elf { .. } | Library::Apple => println!("cargo::rustc-link-lib=dylib=mlxlink"),
        Library::Itself => {
            println!(
                "cargo::rustc-link-search=native={}",
                parent(&mlx.library).display()
            );
            println!("cargo::rustc-link-lib=dylib=mlx");
        }
    }
    println!(
        "cargo::rustc-link-lib=dylib={}",
        if target.os == "macos" {
            "c++"
        } else {
            "stdc++"
        }
    );

    // Dependents with `links` metadata read these as DEP_MLX_INCLUDE and so on.
    println!("cargo::metadata=include={}", mlx.include.display());
    println!("cargo::metadata=libdir={}", parent(&mlx.library).display());
    println!("cargo::metadata=library={}", mlx.library.display());
    println!("cargo::metadata=version={}", mlx.version);
    Ok(())
}

/// What the linker is given for MLX's library.
enum Library {
    /// A stub to be assembled from this file.
    Elf { assembly: PathBuf },
    /// A text-based stub, already written.
    Apple,
    /// The library itself: programs then need a run path of their own.
    Itself,
}

/// Prepares the link stub, unless `MLX_SYS_LINK=soname` asks for the library's own name, as
/// relocatable distributions want it.
fn link_library(mlx: &Mlx, target: &Target, out: &Path) -> Result<Library, String> {
    match env::var("MLX_SYS_LINK").as_deref() {
        Ok("soname") => return Ok(Library::Itself),
        Ok("absolute" | "") | Err(_) => {}
        Ok(other) => {
            return Err(format!(
                "MLX_SYS_LINK={other}: expected `absolute` or `soname`"
            ));
        }
    }
    let symbols = stub::symbols(&mlx.library)?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))
    };
    if target.os == "macos" {
        write(
            &out.join("libmlxlink.tbd"),
            stub::apple_tbd(&symbols, &mlx.library, &target.arch),
        )?;
        return Ok(Library::Apple);
    }
    let assembly = out.join("mlxlink.s");
    write(&assembly, stub::elf_assembly(&symbols))?;
    Ok(Library::Elf { assembly })
}

/// Builds the shim (and the stub, on Linux) and returns the folder that holds them.
fn build_shim(
    mlx: &Mlx,
    library: &Library,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, String> {
    find_compiler()?;
    let cmake = Tool::Cmake.locate(progress).map_err(|e| e.one_line())?;
    // SAFETY: this program has a single thread.
    unsafe { env::set_var("CMAKE", cmake) };
    let mut config = cmake::Config::new("shim");
    config
        .profile("Release")
        .define("MLXS_LIBRARY", &mlx.library);
    let generator = match env::var("CMAKE_GENERATOR") {
        Ok(chosen) => chosen,
        Err(_) if on_path("make") || on_path("gmake") => "make".to_owned(),
        Err(_) => {
            let ninja = Tool::Ninja.locate(progress).map_err(|e| e.one_line())?;
            config
                .generator("Ninja")
                .define("CMAKE_MAKE_PROGRAM", ninja);
            "ninja".to_owned()
        }
    };
    // CMake refuses a folder that another generator has used.
    let folder = out.join(generator.replace(' ', "-"));
    fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    config.out_dir(&folder);
    if mlx.installed {
        config
            .define("CMAKE_PREFIX_PATH", &mlx.root)
            .define("MLXS_INCLUDE", "");
    } else {
        config.define("MLXS_INCLUDE", &mlx.include);
    }
    match library {
        Library::Elf { assembly } => config.define("MLXS_LINK_STUB", assembly),
        _ => config.define("MLXS_LINK_STUB", ""),
    };
    config.build();
    Ok(folder.join("lib"))
}

/// Says in one line what CMake would say in thirty.
fn find_compiler() -> Result<(), String> {
    let chosen = env::vars_os().any(|(name, _)| name.to_string_lossy().contains("CXX"));
    if chosen || on_path("c++") {
        return Ok(());
    }
    Err(
        "a C++20 compiler is needed: install one (for example `apt install g++`, or \
         `xcode-select --install` on macOS), or set CXX"
            .to_owned(),
    )
}

fn backend(target: &Target) -> Result<Backend, String> {
    let has = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let cuda = match (has("CUDA"), has("CUDA_12")) {
        // Features add up across a build; the newer one serves both.
        (true, _) => Backend::Cuda13,
        (false, true) => Backend::Cuda12,
        (false, false) => return Ok(Backend::default_for(target)),
    };
    if target.os == "linux" {
        return Ok(cuda);
    }
    Err(format!(
        "the features `cuda` and `cuda-12` of mlx-sys need Linux, not {}: leave them out",
        target.os
    ))
}

fn on_path(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e} (this program is run by cargo)"))
}
