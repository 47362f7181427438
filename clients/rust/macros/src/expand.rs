//! The generated code: the function, and a type of the same name with the helper functions.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Attribute, FnArg, GenericParam, Ident, ItemFn, Meta, Result, ReturnType, Type, spanned::Spanned};

use crate::{
    options::Options,
    signature::{Function, Kind, Param, mentions},
};

/// Attributes of the original function that the helper functions need as well: they control lints.
const LINTS: [&str; 5] = ["allow", "expect", "warn", "deny", "forbid"];

/// Returns the code for a function.
///
/// # Errors
/// The function cannot be cached with these options.
pub(crate) fn expand(options: Options, item: ItemFn) -> Result<TokenStream> {
    let function = Function::check(item, &options)?;
    let item = &function.item;
    let (name, vis) = (&item.sig.ident, &item.vis);
    let (outer, lints) = attributes(&item.attrs);
    let cached = wrapper(&function, name, quote! { #name }, false);
    let helpers = helpers(&function, &options);
    let about = format!("Operations on the cached results of [`{name}`](fn@{name}).");
    Ok(quote! {
        #(#outer)*
        #(#lints)*
        #vis #cached

        // An enum without variants has no name in the namespace of functions, and its functions see the types of the
        // scope, which those of a module would not.
        #[doc = #about]
        #[allow(non_camel_case_types, dead_code, reason = "it has the name of the function")]
        #vis enum #name {}

        #[allow(dead_code, reason = "not all helper functions are used")]
        #(#lints)*
        impl #name {
            #helpers
        }
    })
}

/// Separates attributes for the outer function only from those that control lints. An expected lint may occur in one of the
/// generated functions only.
fn attributes(attributes: &[Attribute]) -> (Vec<&Attribute>, Vec<TokenStream>) {
    let is_lint = |attribute: &&Attribute| LINTS.iter().any(|name| attribute.path().is_ident(name));
    let (lints, outer): (Vec<&Attribute>, Vec<&Attribute>) = attributes.iter().partition(is_lint);
    let lints = lints.into_iter().map(|attribute| match &attribute.meta {
        Meta::List(list) if attribute.path().is_ident("expect") => {
            let tokens = &list.tokens;
            quote! { #[allow(#tokens)] }
        }
        _ => attribute.to_token_stream(),
    });
    (outer, lints.collect())
}

fn declarations(params: &[Param]) -> Vec<TokenStream> {
    params.iter().map(Param::declaration).collect()
}

/// Returns a function with the signature of the original one, which calls `load`.
fn wrapper(function: &Function, name: &Ident, owner: TokenStream, refresh: bool) -> TokenStream {
    let signature = &function.item.sig;
    let (generics, output) = (&signature.generics, &signature.output);
    let clause = &generics.where_clause;
    let params = declarations(&function.params);
    let names = function.params.iter().map(|param| &param.ident);
    let turbofish = turbofish(function);
    quote! {
        async fn #name #generics (#(#params),*) #output #clause {
            #owner::__load #turbofish (#(#names,)* #refresh).await
        }
    }
}

/// Returns the generic arguments for a call of a function with the generic parameters of the original one.
fn turbofish(function: &Function) -> TokenStream {
    let names = function.item.sig.generics.params.iter().filter_map(|param| match param {
        GenericParam::Type(ty) => Some(&ty.ident),
        GenericParam::Const(constant) => Some(&constant.ident),
        // They are inferred.
        GenericParam::Lifetime(_) => None,
    });
    let names: Vec<&Ident> = names.collect();
    if names.is_empty() {
        TokenStream::new()
    } else {
        quote! { ::<#(#names),*> }
    }
}

fn helpers(function: &Function, options: &Options) -> TokenStream {
    let (item, krate) = (&function.item, &options.krate);
    let (vis, signature, block) = (&item.vis, &item.sig, &item.block);
    let key_params = function.key_params(options);
    let generics = function.generics_of(&key_params);
    let clause = &generics.where_clause;
    let params: Vec<TokenStream> = key_params.iter().map(|param| param.declaration()).collect();
    let key = options.key.code(|name| function.ident(name));
    // A parameter of the key may have the same name.
    let client = Ident::new("client", Span::mixed_site());
    let refresh = wrapper(function, &Ident::new("refresh", Span::call_site()), quote! { Self }, true);
    let (generics_of_original, output) = (&signature.generics, &signature.output);
    let inputs = inputs(function, options);
    let clause_of_original = &signature.generics.where_clause;
    let load = load(function, options);
    quote! {
        /// Returns the key.
        #vis fn key #generics (#(#params),*) -> ::std::string::String #clause {
            #key
        }

        /// Deletes the cached result. Returns whether it existed. A load in progress does not store its result.
        ///
        /// # Errors
        /// As `Client::delete`.
        #vis async fn invalidate #generics (#client: &#krate::Client, #(#params),*) -> #krate::Result<bool> #clause {
            ::core::result::Result::Ok(#client.delete([#key]).await? > 0)
        }

        /// Calls the original function and caches its result, even if a fresh result is cached.
        ///
        /// # Errors
        /// As the original function, and errors of the cache.
        #vis #refresh

        /// The original function, without the cache.
        ///
        /// # Errors
        /// As the function documents.
        #vis async fn uncached #generics_of_original (#(#inputs),*) #output #clause_of_original #block

        #load
    }
}

/// Returns the parameters of the original function. The cache uses some of them, even if the body does not.
fn inputs(function: &Function, options: &Options) -> Vec<TokenStream> {
    let mut expressions = options.setters.clone();
    options.client.to_tokens(&mut expressions);
    options.codec.to_tokens(&mut expressions);
    let is_used = |param: &Param| {
        matches!(param.kind, Kind::Client)
            || mentions(&expressions, &param.ident)
            || options.names().any(|name| param.ident == name)
    };
    let inputs = function.item.sig.inputs.iter().zip(&function.params);
    let input = |(input, param): (&FnArg, &Param)| {
        let allow = is_used(param).then(|| quote! { #[allow(unused_variables, reason = "the cache uses it")] });
        quote! { #allow #input }
    };
    inputs.map(input).collect()
}

/// Returns the function that calls the client.
fn load(function: &Function, options: &Options) -> TokenStream {
    let (signature, krate) = (&function.item.sig, &options.krate);
    let (generics, output) = (&signature.generics, &signature.output);
    let clause = &generics.where_clause;
    let params = declarations(&function.params);
    let names: Vec<&Ident> = function.params.iter().map(|param| &param.ident).collect();
    let turbofish = turbofish(function);
    let key = options.key.code(|name| function.ident(name));
    let tags = options.tags.iter().map(|tag| tag.code(|name| function.ident(name)));
    let setters = &options.setters;
    let client = client(function, options);
    let codec = codec(function, options);
    let (owned, lent): (Vec<TokenStream>, Vec<TokenStream>) = function.params.iter().enumerate().map(owned).unzip();
    // Expressions of the attribute do not see local variables with this span.
    let mixed = Span::mixed_site();
    let (wrapped, ended) = if function.returned.is_optional {
        let ended =
            quote_spanned! { mixed => ::core::result::Result::Ok(loaded.map(::std::sync::Arc::unwrap_or_clone)) };
        (TokenStream::new(), ended)
    } else {
        // Another program may have stored that the origin does not have the key.
        let ended = quote_spanned! { mixed =>
            match loaded {
                ::core::option::Option::Some(value) => ::core::result::Result::Ok(::std::sync::Arc::unwrap_or_clone(value)),
                ::core::option::Option::None => Self::uncached #turbofish (#(#names),*).await,
            }
        };
        (quote! { .map(::core::option::Option::Some) }, ended)
    };
    let returned = match output {
        ReturnType::Type(_, ty) => ty.span(),
        ReturnType::Default => Span::call_site(),
    };
    let loaded = Ident::new("loaded", mixed);
    // An error type that does not convert is reported at the result type.
    let unwrapped = quote_spanned! { returned => #loaded? };
    quote_spanned! { mixed =>
        async fn __load #generics (#(#params,)* refresh: bool) #output #clause {
            let client: #krate::Client = ::core::clone::Clone::clone(::core::borrow::Borrow::<#krate::Client>::borrow(#client));
            let call = #krate::__private::Call {
                key: #key,
                tags: ::std::vec![#(#tags),*],
                options: #krate::LoadOptions::new() #setters,
                refresh,
            };
            let codec = #codec;
            #(#owned)*
            let load = move || async move {
                Self::uncached #turbofish (#(#lent),*).await #wrapped
            };
            let loaded = #krate::__private::load(client, codec, call, load).await;
            let loaded = #unwrapped;
            #ended
        }
    }
}

/// Returns an expression of type `&T`, where `T` is a client, a reference or an `Arc`.
fn client(function: &Function, options: &Options) -> TokenStream {
    if let Some(client) = &options.client {
        return quote_spanned! { client.span() => &(#client) };
    }
    let client = function.params.iter().find(|param| matches!(param.kind, Kind::Client));
    client.map(|param| param.ident.to_token_stream()).unwrap_or_default()
}

fn codec(function: &Function, options: &Options) -> TokenStream {
    let (returned, krate) = (&function.returned, &options.krate);
    let value = &returned.value;
    let codec = match &options.codec {
        Some(codec) => codec.to_token_stream(),
        None if is_bytes(value) => quote! { #krate::Raw },
        None => quote_spanned! { value.span() => #krate::Json::<#value>::new() },
    };
    if returned.is_shared {
        quote! { #krate::__private::Shared(#codec) }
    } else {
        codec
    }
}

/// Returns whether a type is `Bytes`, which other programs read without JSON.
fn is_bytes(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Bytes"))
}

/// Returns the statement that makes an owned value of a parameter, and the expression that passes it to the original
/// function.
fn owned((at, param): (usize, &Param)) -> (TokenStream, TokenStream) {
    let Param { ident, ty, kind } = param;
    let owned = format_ident!("owned_{at}", span = Span::mixed_site());
    match kind {
        Kind::Client => {
            let mixed = Span::mixed_site();
            (quote_spanned! { mixed => let #owned = ::core::clone::Clone::clone(&client); }, quote! { &#owned })
        }
        Kind::Owned => (
            quote_spanned! { ty.span() => let #owned: #ty = ::core::clone::Clone::clone(&#ident); },
            owned.to_token_stream(),
        ),
        Kind::Borrowed(inner) => (
            quote_spanned! { ty.span() => let #owned = <#inner as ::std::borrow::ToOwned>::to_owned(#ident); },
            quote! {
                <<#inner as ::std::borrow::ToOwned>::Owned as ::core::borrow::Borrow<#inner>>::borrow(&#owned)
            },
        ),
    }
}
