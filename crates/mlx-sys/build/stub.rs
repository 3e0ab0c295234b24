//! The link stub: what the linker sees in place of MLX's shared library.
//!
//! A linker copies a shared library's own name (`SONAME`, or `install_name` on macOS) into each
//! program. MLX's library calls itself `libmlx.so` (`@rpath/libmlx.dylib`), so every program,
//! test and example of every dependent crate would need a run path, which a build script can
//! pass to nobody but its own package. The stub has the library's symbols and calls itself by
//! the library's absolute path, so that programs find it with no run path and no environment.
//!
//! On Linux the stub is assembly that CMake turns into a shared object; on macOS it is a
//! text-based stub file. It is read by the linker only and never loaded.

use std::{fmt::Write as _, fs, path::Path};

use object::{Object, ObjectSymbol, SymbolKind};

/// One entry of a library's dynamic symbol table.
pub struct Symbol {
    pub name: String,
    pub kind: SymbolKind,
    pub weak: bool,
    pub defined: bool,
    pub size: u64,
}

/// The dynamic symbols of a shared library, sorted by name.
pub fn symbols(library: &Path) -> Result<Vec<Symbol>, String> {
    let failed =
        |e: &dyn std::fmt::Display| format!("read the symbols of {}: {e}", library.display());
    let data = fs::read(library).map_err(|e| failed(&e))?;
    let file = object::File::parse(&*data).map_err(|e| failed(&e))?;
    let macho = file.format() == object::BinaryFormat::MachO;
    let mut found = Vec::new();
    let mut add = |symbol: object::Symbol<'_, '_>| {
        let Ok(name) = symbol.name() else { return };
        if name.is_empty() || symbol.is_local() || (!symbol.is_global() && !symbol.is_undefined()) {
            return;
        }
        found.push(Symbol {
            name: name.to_owned(),
            kind: symbol.kind(),
            weak: symbol.is_weak(),
            defined: !symbol.is_undefined(),
            size: symbol.size(),
        });
    };
    // Mach-O has one symbol table; ELF keeps the dynamic ones apart.
    if macho {
        file.symbols().for_each(&mut add);
    } else {
        file.dynamic_symbols().for_each(&mut add);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    if !found.iter().any(|s| s.defined) {
        return Err(failed(&"it exports nothing"));
    }
    Ok(found)
}

/// Assembly for an ELF stub. What the library itself needs from elsewhere becomes a weak
/// reference: the linker then exports a program's own definition of such a symbol (a faster
/// `cblas_sgemm`, say) just as it does for the library, and does not ask for the rest, so that
/// a CUDA program links on a machine without NVIDIA's libraries.
pub fn elf_assembly(symbols: &[Symbol]) -> String {
    let mut text = String::from("\t.text\n");
    let section = |text: &mut String, symbol: &Symbol, directive: &str, kind: &str| {
        let name = &symbol.name;
        let binding = if symbol.weak { ".weak" } else { ".globl" };
        let size = symbol.size.max(1);
        let _ = write!(
            text,
            "\t{directive}\n\t{binding} \"{name}\"\n\t.type \"{name}\", %{kind}\n\"{name}\":\n\t.zero 1\n\t.size \"{name}\", {size}\n"
        );
    };
    for symbol in symbols {
        match (symbol.defined, symbol.kind) {
            (true, SymbolKind::Text) => section(&mut text, symbol, ".text", "function"),
            (true, SymbolKind::Tls) => {
                section(
                    &mut text,
                    symbol,
                    ".section .tbss,\"awT\",%nobits",
                    "tls_object",
                );
            }
            (true, _) => section(&mut text, symbol, ".bss", "object"),
            // C++ and system names: nobody replaces them, and some are thread-local, which the
            // table does not say.
            (false, _) if symbol.name.starts_with('_') => {}
            (false, _) => {
                let name = &symbol.name;
                let _ = write!(text, "\t.weak \"{name}\"\n\t.data\n\t.quad \"{name}\"\n");
            }
        }
    }
    text.push_str("\t.section .note.GNU-stack,\"\",%progbits\n");
    text
}

/// A text-based stub for Apple's linkers.
pub fn apple_tbd(symbols: &[Symbol], library: &Path, arch: &str) -> String {
    let target = format!("{}-macos", if arch == "aarch64" { "arm64" } else { arch });
    let pick = |tls: bool, weak: bool| {
        let chosen = symbols
            .iter()
            .filter(|s| s.defined && (s.kind == SymbolKind::Tls) == tls && s.weak == weak);
        chosen
            .map(|s| format!("'{}'", s.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let path = library.display().to_string().replace('\'', "''");
    let mut text = format!(
        "--- !tapi-tbd\ntbd-version: 4\ntargets: [ {target} ]\ninstall-name: '{path}'\nexports:\n  - targets: [ {target} ]\n"
    );
    for (key, list) in [
        ("symbols", pick(false, false)),
        ("weak-symbols", pick(false, true)),
        ("thread-local-symbols", pick(true, false)),
    ] {
        if !list.is_empty() {
            let _ = writeln!(text, "    {key}: [ {list} ]");
        }
    }
    text.push_str("...\n");
    text
}
