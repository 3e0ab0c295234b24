//! `#[derive(Module)]` for the crate `mlx-nn`, which re-exports it and documents its use.
//!
//! The macro writes exactly the two traversals of `mlx_nn::Module`: each field is visited under
//! its own name, in declaration order. Whether a field *is* a module, a parameter or a
//! parameter-free primitive is left to trait resolution, so that a field of any other type is a
//! compile error at that field.
#![forbid(unsafe_code)]

mod attributes;
mod expand;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `mlx_nn::Module`: the field's name is the checkpoint key.
///
/// | attribute | on | meaning |
/// |---|---|---|
/// | `#[module(skip)]` | field | not part of the module: settings, caches, lookup tables |
/// | `#[module(name = "…")]` | field | the checkpoint key, where it is no Rust identifier |
/// | `#[module(crate = "…")]` | type | path of the `mlx_nn` crate when it is re-exported elsewhere |
///
/// A struct or variant with a single unnamed field is transparent: its content is visited under
/// the outer path. In an enum, the active variant is visited.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
