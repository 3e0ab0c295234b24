//! The `#[module(…)]` attributes of types and fields.

use syn::{Attribute, Field, LitStr, Path, Result};

/// What `#[module(…)]` says about one field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    pub(crate) skip: bool,
    pub(crate) name: Option<LitStr>,
}

impl FieldAttributes {
    pub(crate) fn parse(field: &Field) -> Result<Self> {
        let mut parsed = Self::default();
        for attribute in module_attributes(&field.attrs) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    parsed.skip = true;
                    Ok(())
                } else if meta.path.is_ident("name") {
                    let name: LitStr = meta.value()?.parse()?;
                    if name.value().is_empty() {
                        return Err(syn::Error::new(name.span(), "the name must not be empty"));
                    }
                    parsed.name = Some(name);
                    Ok(())
                } else {
                    Err(meta.error("expected `skip` or `name = \"…\"`"))
                }
            })?;
            if let (true, Some(name)) = (parsed.skip, &parsed.name) {
                return Err(syn::Error::new(
                    name.span(),
                    "a skipped field has no key: remove `name` or `skip`",
                ));
            }
        }
        Ok(parsed)
    }
}

/// The path under which the generated code finds `mlx_nn`.
pub(crate) fn crate_path(attributes: &[Attribute]) -> Result<Path> {
    let mut path = None;
    for attribute in module_attributes(attributes) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                let value: LitStr = meta.value()?.parse()?;
                path = Some(value.parse()?);
                Ok(())
            } else {
                Err(meta.error("expected `crate = \"…\"`"))
            }
        })?;
    }
    Ok(path.unwrap_or_else(|| syn::parse_quote!(::mlx_nn)))
}

fn module_attributes(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("module"))
}
