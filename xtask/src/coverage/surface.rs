//! What our crates offer, read from their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Item, UseTree, Visibility};

/// The public items of some crates.
#[derive(Debug, Default)]
pub struct Surface {
    crates: BTreeMap<String, Module>,
    /// Public associated functions and constants, and variants, by the name of their type.
    members: BTreeMap<String, BTreeSet<String>>,
    /// Traits that are implemented somewhere, by their own name.
    traits: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Module {
    items: BTreeSet<String>,
    children: BTreeMap<String, (bool, Module)>,
    /// Re-exports: the public name (`*` for all) and the path it stands for.
    uses: Vec<(String, Vec<String>)>,
}

impl Surface {
    /// Reads a crate from its `lib.rs`.
    pub fn read_crate(&mut self, name: &str, root: &Path) -> Result<()> {
        let folder = root.parent().unwrap_or(root).to_path_buf();
        let module = self.read_module(root, &folder)?;
        self.crates.insert(name.to_owned(), module);
        Ok(())
    }

    fn read_module(&mut self, file: &Path, folder: &Path) -> Result<Module> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("parse {}", file.display()))?;
        self.collect(&parsed.items, file, folder)
    }

    fn collect(&mut self, items: &[Item], file: &Path, folder: &Path) -> Result<Module> {
        let mut module = Module::default();
        let public = |visibility: &Visibility| matches!(visibility, Visibility::Public(_));
        for item in items {
            match item {
                Item::Fn(item) if public(&item.vis) => {
                    module.items.insert(plain(&item.sig.ident));
                }
                Item::Struct(item) if public(&item.vis) => {
                    module.items.insert(plain(&item.ident));
                }
                Item::Enum(item) if public(&item.vis) => {
                    let members = self.members.entry(plain(&item.ident)).or_default();
                    members.extend(item.variants.iter().map(|v| plain(&v.ident)));
                    module.items.insert(plain(&item.ident));
                }
                Item::Trait(item) if public(&item.vis) => {
                    module.items.insert(plain(&item.ident));
                }
                Item::Const(item) if public(&item.vis) => {
                    module.items.insert(plain(&item.ident));
                }
                Item::Type(item) if public(&item.vis) => {
                    module.items.insert(plain(&item.ident));
                }
                Item::Use(item) if public(&item.vis) => {
                    flatten(&item.tree, &mut Vec::new(), &mut module.uses);
                }
                Item::Impl(item) => self.collect_impl(item),
                Item::Macro(item) => {
                    self.collect_macro(item, &mut module);
                }
                Item::Mod(item) => {
                    let name = plain(&item.ident);
                    let child = match &item.content {
                        Some((_, items)) => self.collect(items, file, &folder.join(&name))?,
                        None => {
                            let path = module_file(item, file, folder, &name);
                            self.read_module(&path, &folder.join(&name))?
                        }
                    };
                    module.children.insert(name, (public(&item.vis), child));
                }
                _ => {}
            }
        }
        Ok(module)
    }

    fn collect_impl(&mut self, item: &syn::ItemImpl) {
        let syn::Type::Path(path) = &*item.self_ty else {
            if let Some((_, path, _)) = &item.trait_ {
                self.traits
                    .extend(path.segments.last().map(|s| plain(&s.ident)));
            }
            return;
        };
        let Some(name) = path.path.segments.last() else {
            return;
        };
        if let Some((_, path, _)) = &item.trait_ {
            self.traits
                .extend(path.segments.last().map(|s| plain(&s.ident)));
        }
        let members = self.members.entry(plain(&name.ident)).or_default();
        for member in &item.items {
            match member {
                syn::ImplItem::Fn(f)
                    if item.trait_.is_some() || matches!(f.vis, Visibility::Public(_)) =>
                {
                    members.insert(plain(&f.sig.ident));
                }
                syn::ImplItem::Const(c) if matches!(c.vis, Visibility::Public(_)) => {
                    members.insert(plain(&c.ident));
                }
                _ => {}
            }
        }
    }

    /// Items that a macro makes: documented names in its input, and the first name of `operator!`.
    fn collect_macro(&mut self, item: &syn::ItemMacro, module: &mut Module) {
        let tokens = &item.mac.tokens;
        if item.mac.path.is_ident("operator") {
            let trait_name = tokens.clone().into_iter().find_map(|token| match token {
                TokenTree::Ident(name) if name.to_string().starts_with(char::is_uppercase) => {
                    Some(plain(&name))
                }
                _ => None,
            });
            self.traits.extend(trait_name);
        } else if item.mac.path.is_ident("macro_rules") {
            module.items.extend(item.ident.as_ref().map(plain));
        } else {
            documented(tokens.clone(), &mut module.items);
        }
    }

    /// Whether `path` (`mlx_core::ops::shape::tile`, `mlx_core::Array::zeros`, `impl Add`) exists
    /// and can be reached by users.
    pub fn has(&self, path: &str) -> bool {
        if let Some(name) = path.strip_prefix("impl ") {
            return self.traits.contains(name);
        }
        let segments: Vec<&str> = path.split("::").collect();
        let Some((first, rest)) = segments.split_first() else {
            return false;
        };
        self.crates
            .get(*first)
            .is_some_and(|root| self.reach(root, root, rest, 0))
    }

    fn reach(&self, root: &Module, module: &Module, path: &[&str], depth: usize) -> bool {
        let (Some((&first, rest)), true) = (path.split_first(), depth < 32) else {
            return path.is_empty();
        };
        if module.items.contains(first) {
            return match rest {
                [] => true,
                [member] => self
                    .members
                    .get(first)
                    .is_some_and(|members| members.contains(*member)),
                _ => false,
            };
        }
        if let Some((true, child)) = module.children.get(first) {
            return self.reach(root, child, rest, depth + 1);
        }
        module.uses.iter().any(|(name, target)| {
            let mut full: Vec<&str> = target.iter().map(String::as_str).collect();
            if name == "*" {
                full.push(first);
            } else if name != first {
                return false;
            }
            full.extend(rest);
            self.follow(root, module, &full, depth + 1)
        })
    }

    /// Follows a `use` path, which may pass private modules.
    fn follow(&self, root: &Module, module: &Module, path: &[&str], depth: usize) -> bool {
        match path.split_first() {
            Some((&"crate", rest)) => self.descend(root, root, rest, depth),
            Some((&"self", rest)) => self.descend(root, module, rest, depth),
            Some((first, rest)) => match self.crates.get(*first) {
                Some(other) => self.reach(other, other, rest, depth),
                None => self.descend(root, module, path, depth),
            },
            None => false,
        }
    }

    fn descend(&self, root: &Module, module: &Module, path: &[&str], depth: usize) -> bool {
        if let Some((&first, rest)) = path.split_first()
            && let Some((_, child)) = module.children.get(first)
            && !rest.is_empty()
        {
            return self.descend(root, child, rest, depth);
        }
        self.reach(root, module, path, depth)
    }
}

fn plain(ident: &syn::Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

fn flatten(tree: &UseTree, prefix: &mut Vec<String>, out: &mut Vec<(String, Vec<String>)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(plain(&path.ident));
            flatten(&path.tree, prefix, out);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let mut full = prefix.clone();
            full.push(plain(&name.ident));
            out.push((plain(&name.ident), full));
        }
        UseTree::Rename(rename) => {
            let mut full = prefix.clone();
            full.push(plain(&rename.ident));
            out.push((plain(&rename.rename), full));
        }
        UseTree::Glob(_) => out.push(("*".to_owned(), prefix.clone())),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, out);
            }
        }
    }
}

fn module_file(item: &syn::ItemMod, file: &Path, folder: &Path, name: &str) -> PathBuf {
    let named = item.attrs.iter().find_map(|attribute| {
        let syn::Meta::NameValue(meta) = &attribute.meta else {
            return None;
        };
        if !meta.path.is_ident("path") {
            return None;
        }
        let text = meta.value.to_token_stream().to_string();
        Some(text.trim_matches('"').to_owned())
    });
    match named {
        // Relative to the folder of the file that says so.
        Some(path) => file.parent().unwrap_or(folder).join(path),
        None => folder.join(format!("{name}.rs")),
    }
}

/// Names that follow documentation in a macro's input.
fn documented(tokens: TokenStream, out: &mut BTreeSet<String>) {
    let mut after_attribute = false;
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                after_attribute = true;
            }
            TokenTree::Ident(ident) if after_attribute => {
                out.insert(plain(&ident));
                after_attribute = false;
            }
            TokenTree::Punct(_) => {}
            _ => after_attribute = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surface(text: &str) -> Surface {
        let items = syn::parse_file(text).unwrap().items;
        let mut surface = Surface::default();
        let module = surface
            .collect(&items, Path::new("lib.rs"), Path::new("."))
            .unwrap();
        surface.crates.insert("k".to_owned(), module);
        surface
    }

    #[test]
    fn only_what_users_can_reach_counts() {
        let s = surface(
            "mod inner { pub struct Thing; impl Thing { pub fn make() {} fn hide() {} } pub fn lone() {} }
             pub mod ops { pub fn tile() {} fn hidden() {} pub mod deep { pub enum E { A } } }
             pub use inner::Thing;
             pub use self::ops::deep::*;
             readings! { /// Doc.
                 active => binding; }
             impl Add for &Thing { fn add(self) {} }",
        );
        for path in [
            "k::Thing",
            "k::Thing::make",
            "k::ops::tile",
            "k::ops::deep::E::A",
            "k::E",
            "k::active",
            "impl Add",
        ] {
            assert!(s.has(path), "{path}");
        }
        for path in [
            "k::inner::Thing",
            "k::inner::lone",
            "k::lone",
            "k::Thing::hide",
            "k::ops::hidden",
            "k::ops::missing",
            "impl Sub",
            "j::Thing",
            "k::binding",
        ] {
            assert!(!s.has(path), "{path}");
        }
    }
}
