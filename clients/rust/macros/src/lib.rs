//! The attribute `#[cached]` of `terrace-client`, which documents it: use it as `terrace_client::cached`.
//!
//! * `options`: the arguments of the attribute.
//! * `template`: key and tag templates.
//! * `duration`: durations such as `"5m"`.
//! * `signature`: parameters, result and generic parameters of the function.
//! * `expand`: the generated code.
#![expect(clippy::wildcard_enum_match_arm, reason = "most variants of a syntax tree are code that the macro passes on")]

mod duration;
mod expand;
mod options;
mod signature;
mod template;

use proc_macro::TokenStream;

/// Caches the results of an asynchronous function. The crate `terrace-client` documents the options.
#[proc_macro_attribute]
pub fn cached(options: TokenStream, item: TokenStream) -> TokenStream {
    let original = proc_macro2::TokenStream::from(item.clone());
    let expanded = syn::parse(options).and_then(|options| expand::expand(options, syn::parse(item)?));
    expanded
        .unwrap_or_else(|error| {
            let error = error.to_compile_error();
            // With the function, its callers cause no further errors.
            quote::quote! { #error #original }
        })
        .into()
}
