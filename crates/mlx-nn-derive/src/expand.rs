//! From the parsed type to the two methods of `Module`.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    Data, DeriveInput, Fields, GenericParam, Generics, Ident, LitStr, Member, Path, Result, Type,
    ext::IdentExt, parse_quote_spanned, spanned::Spanned,
};

use crate::attributes::{FieldAttributes, crate_path};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let krate = crate_path(&input.attrs)?;
    let (visit, visit_mut) = match &input.data {
        Data::Struct(data) => {
            let fields = VisitedField::collect(&data.fields)?;
            let bind = |reference: TokenStream| {
                fields
                    .iter()
                    .map(|field| {
                        let (binding, member) = (&field.binding, &field.member);
                        quote!(let #binding = #reference self.#member;)
                    })
                    .collect::<TokenStream>()
            };
            let (by_ref, by_mut) = (bind(quote!(&)), bind(quote!(&mut)));
            let (visit, visit_mut) = calls(&krate, &fields);
            (quote!(#by_ref #visit), quote!(#by_mut #visit_mut))
        }
        Data::Enum(data) => {
            let mut arms = (TokenStream::new(), TokenStream::new());
            for variant in &data.variants {
                let fields = VisitedField::collect(&variant.fields)?;
                let ident = &variant.ident;
                let bindings = fields.iter().map(|field| {
                    let (binding, member) = (&field.binding, &field.member);
                    quote!(#member: #binding,)
                });
                let pattern = quote!(Self::#ident { #(#bindings)* .. });
                let (visit, visit_mut) = calls(&krate, &fields);
                arms.0.extend(quote!(#pattern => { #visit }));
                arms.1.extend(quote!(#pattern => { #visit_mut }));
            }
            if data.variants.is_empty() {
                (quote!(match *self {}), quote!(match *self {}))
            } else {
                let (visit, visit_mut) = arms;
                (
                    quote!(match self { #visit }),
                    quote!(match self { #visit_mut }),
                )
            }
        }
        Data::Union(data) => {
            return Err(syn::Error::new(
                data.union_token.span,
                "a union cannot be a module: use a struct or an enum",
            ));
        }
    };
    let finish = match &input.data {
        Data::Enum(data) if data.variants.is_empty() => TokenStream::new(),
        _ => quote!(::core::result::Result::Ok(())),
    };

    let ident = &input.ident;
    let generics = with_module_bounds(&krate, &input.generics);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::Module for #ident #type_generics #where_clause {
            fn visit<'__module>(
                &'__module self,
                __path: &#krate::KeyPath<'_>,
                __visitor: &mut dyn #krate::Visitor<'__module>,
            ) {
                #visit
            }

            fn visit_mut(
                &mut self,
                __path: &#krate::KeyPath<'_>,
                __visitor: &mut dyn #krate::VisitorMut,
            ) -> #krate::Result<()> {
                #visit_mut
                #finish
            }
        }
    })
}

/// A field that takes part in the traversal.
struct VisitedField<'f> {
    member: Member,
    binding: Ident,
    ty: &'f Type,
    /// `None` where the field is transparent.
    key: Option<LitStr>,
}

impl<'f> VisitedField<'f> {
    fn collect(fields: &'f Fields) -> Result<Vec<Self>> {
        let mut visited = Vec::new();
        let mut keys = BTreeSet::new();
        for (index, (member, field)) in fields.members().zip(fields).enumerate() {
            let attributes = FieldAttributes::parse(field)?;
            if attributes.skip {
                continue;
            }
            let key = attributes.name.or_else(|| {
                field
                    .ident
                    .as_ref()
                    .map(|ident| LitStr::new(&ident.unraw().to_string(), ident.span()))
            });
            if let Some(key) = &key
                && !keys.insert(key.value())
            {
                let message = format!("another field already has the key `{}`", key.value());
                return Err(syn::Error::new(key.span(), message));
            }
            visited.push(Self {
                member,
                binding: format_ident!("__field{index}"),
                ty: &field.ty,
                key,
            });
        }
        if let (Some(unnamed), true) = (
            visited.iter().find(|field| field.key.is_none()),
            visited.len() > 1,
        ) {
            return Err(syn::Error::new(
                unnamed.ty.span(),
                "several unnamed fields have no keys: name the fields, or mark all but one with `#[module(skip)]`",
            ));
        }
        Ok(visited)
    }
}

/// The traversal calls over the bound fields, shared and exclusive.
fn calls(krate: &Path, fields: &[VisitedField<'_>]) -> (TokenStream, TokenStream) {
    let mut visit = TokenStream::new();
    let mut visit_mut = TokenStream::new();
    for VisitedField {
        binding, ty, key, ..
    } in fields
    {
        // Errors about a type that is no module should point at that type.
        let span = ty.span();
        let path = match key {
            Some(key) => quote_spanned!(span=> &__path.child(#key)),
            None => quote_spanned!(span=> __path),
        };
        let module = in_span(&quote!(#krate::Module), span);
        visit.extend(quote_spanned!(span=> <#ty as #module>::visit(#binding, #path, __visitor);));
        visit_mut.extend(
            quote_spanned!(span=> <#ty as #module>::visit_mut(#binding, #path, __visitor)?;),
        );
    }
    (visit, visit_mut)
}

fn in_span(path: &TokenStream, span: Span) -> TokenStream {
    let path: Path = parse_quote_spanned!(span=> #path);
    path.to_token_stream()
}

fn with_module_bounds(krate: &Path, generics: &Generics) -> Generics {
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(syn::parse_quote!(#krate::Module));
        }
    }
    generics
}

#[cfg(test)]
mod tests {
    use quote::quote;
    use syn::parse_quote;

    use super::expand;

    fn message(input: &syn::DeriveInput) -> String {
        match expand(input) {
            Ok(tokens) => panic!("accepted: {tokens}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn struct_expansion_is_pinned() {
        let expanded = expand(&parse_quote! {
            struct Block {
                r#type: Linear,
                #[module(name = "LayerNorm")]
                norm: LayerNorm,
                #[module(skip)]
                scale: Settings,
            }
        });
        let expected = quote! {
            #[automatically_derived]
            impl ::mlx_nn::Module for Block {
                fn visit<'__module>(
                    &'__module self,
                    __path: &::mlx_nn::KeyPath<'_>,
                    __visitor: &mut dyn ::mlx_nn::Visitor<'__module>,
                ) {
                    let __field0 = &self.r#type;
                    let __field1 = &self.norm;
                    <Linear as ::mlx_nn::Module>::visit(__field0, &__path.child("type"), __visitor);
                    <LayerNorm as ::mlx_nn::Module>::visit(__field1, &__path.child("LayerNorm"), __visitor);
                }

                fn visit_mut(
                    &mut self,
                    __path: &::mlx_nn::KeyPath<'_>,
                    __visitor: &mut dyn ::mlx_nn::VisitorMut,
                ) -> ::mlx_nn::Result<()> {
                    let __field0 = &mut self.r#type;
                    let __field1 = &mut self.norm;
                    <Linear as ::mlx_nn::Module>::visit_mut(__field0, &__path.child("type"), __visitor)?;
                    <LayerNorm as ::mlx_nn::Module>::visit_mut(__field1, &__path.child("LayerNorm"), __visitor)?;
                    ::core::result::Result::Ok(())
                }
            }
        };
        assert_eq!(
            expanded.map(|tokens| tokens.to_string()).ok(),
            Some(expected.to_string())
        );
    }

    #[test]
    fn enum_expansion_is_pinned() {
        let expanded = expand(&parse_quote! {
            #[module(crate = "crate::nn")]
            enum Mlp<T> {
                Dense(T),
                Sparse { gate: Linear },
                None,
            }
        });
        let expected = quote! {
            #[automatically_derived]
            impl<T: crate::nn::Module> crate::nn::Module for Mlp<T> {
                fn visit<'__module>(
                    &'__module self,
                    __path: &crate::nn::KeyPath<'_>,
                    __visitor: &mut dyn crate::nn::Visitor<'__module>,
                ) {
                    match self {
                        Self::Dense { 0: __field0, .. } => {
                            <T as crate::nn::Module>::visit(__field0, __path, __visitor);
                        }
                        Self::Sparse { gate: __field0, .. } => {
                            <Linear as crate::nn::Module>::visit(__field0, &__path.child("gate"), __visitor);
                        }
                        Self::None { .. } => {}
                    }
                }

                fn visit_mut(
                    &mut self,
                    __path: &crate::nn::KeyPath<'_>,
                    __visitor: &mut dyn crate::nn::VisitorMut,
                ) -> crate::nn::Result<()> {
                    match self {
                        Self::Dense { 0: __field0, .. } => {
                            <T as crate::nn::Module>::visit_mut(__field0, __path, __visitor)?;
                        }
                        Self::Sparse { gate: __field0, .. } => {
                            <Linear as crate::nn::Module>::visit_mut(__field0, &__path.child("gate"), __visitor)?;
                        }
                        Self::None { .. } => {}
                    }
                    ::core::result::Result::Ok(())
                }
            }
        };
        assert_eq!(
            expanded.map(|tokens| tokens.to_string()).ok(),
            Some(expected.to_string())
        );
    }

    #[test]
    fn unions_are_refused() {
        let text = message(&parse_quote!(union Bits { float: f32, int: u32 }));
        assert!(text.contains("union"), "{text}");
    }

    #[test]
    fn contradictory_attributes_are_refused() {
        let text = message(&parse_quote!(
            struct Layer {
                #[module(skip, name = "w")]
                weight: Array,
            }
        ));
        assert!(text.contains("skipped field"), "{text}");
    }
}
