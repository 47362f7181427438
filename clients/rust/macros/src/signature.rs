//! The function: its parameters, its result, and what of its generic parameters a helper function needs.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{
    Error, FnArg, GenericArgument, GenericParam, Generics, Ident, ItemFn, Pat, PathArguments, PathSegment, Result,
    ReturnType, Signature, Type, WherePredicate, punctuated::Punctuated,
};

use crate::options::Options;

/// Types whose references are values of the application. References to other types are services, such as a database.
const VALUE_TYPES: [&str; 24] = [
    "str", "String", "bool", "char", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128",
    "isize", "f32", "f64", "Vec", "Option", "Cow", "Path", "PathBuf", "OsStr",
];

/// Use of a parameter.
pub(crate) enum Kind {
    /// The client of the cache.
    Client,
    /// A reference to this type, which the loader replaces with an owned value.
    Borrowed(Box<Type>),
    /// A value that the loader clones.
    Owned,
}

/// A parameter.
pub(crate) struct Param {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) kind: Kind,
}

impl Param {
    /// Returns the declaration without `mut` and attributes.
    pub(crate) fn declaration(&self) -> TokenStream {
        let Self { ident, ty, .. } = self;
        quote! { #ident: #ty }
    }
}

/// Result type of the function.
pub(crate) struct Returned {
    /// The type of the values, without `Option` and `Arc`.
    pub(crate) value: Type,
    /// `Option`: the origin may not have the key.
    pub(crate) is_optional: bool,
    /// `Arc`: the values are shared instead of cloned.
    pub(crate) is_shared: bool,
}

/// A function that can be cached.
pub(crate) struct Function {
    pub(crate) item: ItemFn,
    pub(crate) params: Vec<Param>,
    pub(crate) returned: Returned,
}

impl Function {
    /// Checks a function.
    ///
    /// # Errors
    /// The function cannot be cached with these options.
    pub(crate) fn check(item: ItemFn, options: &Options) -> Result<Self> {
        let signature = &item.sig;
        if signature.asyncness.is_none() {
            let text = format!("`{}` is not async; a cached function waits for the cache", signature.ident);
            return Err(Error::new_spanned(signature.fn_token, text));
        }
        if let Some(variadic) = &signature.variadic {
            return Err(Error::new_spanned(variadic, "a cached function has a fixed number of parameters"));
        }
        let params = params(signature, options)?;
        check_names(&params, options)?;
        let returned = returned(&signature.output, options)?;
        Ok(Self { item, params, returned })
    }

    /// Returns the parameter of a name.
    pub(crate) fn ident(&self, name: &str) -> Option<&Ident> {
        self.params.iter().map(|param| &param.ident).find(|ident| *ident == name)
    }

    /// Returns the parameters in the key, in the order of the function.
    pub(crate) fn key_params(&self, options: &Options) -> Vec<&Param> {
        self.params.iter().filter(|param| options.key.names().any(|name| param.ident == name)).collect()
    }

    /// Returns the generic parameters that the types of some parameters use.
    pub(crate) fn generics_of(&self, params: &[&Param]) -> Generics {
        let generics = &self.item.sig.generics;
        let mut used: TokenStream = params.iter().map(|param| param.ty.to_token_stream()).collect();
        loop {
            // The bound of a used parameter may use another one.
            let (kept, other): (Vec<_>, Vec<_>) =
                generics.params.iter().partition(|param| mentions(&used, &name_of(param)));
            let bounds: TokenStream = kept.iter().map(ToTokens::to_token_stream).collect();
            if other.iter().any(|param| mentions(&bounds, &name_of(param))) {
                used.extend(bounds);
                continue;
            }
            let mut reduced = generics.clone();
            reduced.params = kept.into_iter().cloned().collect();
            if let Some(clause) = &mut reduced.where_clause {
                let is_kept = |predicate: &WherePredicate| {
                    let tokens = predicate.to_token_stream();
                    !other.iter().any(|param| mentions(&tokens, &name_of(param)))
                };
                let predicates = std::mem::take(&mut clause.predicates);
                clause.predicates = predicates.into_iter().filter(is_kept).collect::<Punctuated<_, _>>();
            }
            return reduced;
        }
    }
}

fn name_of(param: &GenericParam) -> Ident {
    match param {
        GenericParam::Lifetime(lifetime) => lifetime.lifetime.ident.clone(),
        GenericParam::Type(ty) => ty.ident.clone(),
        GenericParam::Const(constant) => constant.ident.clone(),
    }
}

/// Returns whether a name occurs in tokens.
pub(crate) fn mentions(tokens: &TokenStream, name: &Ident) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(&group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn params(signature: &Signature, options: &Options) -> Result<Vec<Param>> {
    let mut params = Vec::new();
    let mut client: Option<Ident> = None;
    for input in &signature.inputs {
        let mut param = param(input)?;
        if options.client.is_none() && is_client(&param.ty) {
            if let Some(first) = &client {
                let text =
                    format!("`{first}` and `{}` have the type &Client; select one with client = {first}", param.ident);
                return Err(Error::new_spanned(&param.ty, text));
            }
            client = Some(param.ident.clone());
            param.kind = Kind::Client;
        }
        params.push(param);
    }
    if options.client.is_none() && client.is_none() {
        let name = &signature.ident;
        let text = format!("`{name}` has no parameter of type &Client; add one, or set client = EXPRESSION");
        return Err(Error::new_spanned(name, text));
    }
    Ok(params)
}

fn param(input: &FnArg) -> Result<Param> {
    let typed = match input {
        FnArg::Typed(typed) => typed,
        FnArg::Receiver(receiver) => {
            let text =
                "a method cannot be cached; call a function with the fields of `self` that the result depends on";
            return Err(Error::new_spanned(receiver, text));
        }
    };
    let ident = match &*typed.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => pattern.ident.clone(),
        other => return Err(Error::new_spanned(other, "a parameter of a cached function is a name, not a pattern")),
    };
    let ty = plain(&typed.ty);
    let kind = kind(&ident, ty)?;
    Ok(Param { ident, ty: ty.clone(), kind })
}

fn kind(ident: &Ident, ty: &Type) -> Result<Kind> {
    let fault = |text: &str| Err(Error::new_spanned(ty, format!("`{ident}` {text}")));
    let (kind, inner) = match ty {
        Type::ImplTrait(_) => return fault("has an anonymous type; use a generic parameter with a name"),
        Type::Reference(reference) if reference.mutability.is_some() => {
            return fault("is a mutable reference, which the loader cannot keep; it may run after its caller has left");
        }
        Type::Reference(reference)
            if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static") =>
        {
            return Ok(Kind::Owned);
        }
        Type::Reference(reference) => {
            let inner = plain(&reference.elem);
            (Kind::Borrowed(Box::new(inner.clone())), inner)
        }
        other => (Kind::Owned, other),
    };
    match inner {
        Type::TraitObject(_) => fault("is a reference to a trait object, which cannot be cloned; take an Arc of it"),
        Type::ImplTrait(_) => fault("has an anonymous type; use a generic parameter with a name"),
        _ if borrows(&inner.to_token_stream()) => {
            fault("contains a reference, which the loader cannot keep; take an owned type, such as Option<String>")
        }
        _ => Ok(kind),
    }
}

/// Returns whether a type has a reference or a lifetime other than `'static`.
fn borrows(tokens: &TokenStream) -> bool {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    tokens.iter().enumerate().any(|(at, token)| match token {
        TokenTree::Group(group) => borrows(&group.stream()),
        TokenTree::Punct(punct) if punct.as_char() == '\'' => {
            !matches!(tokens.get(at + 1), Some(TokenTree::Ident(name)) if name == "static")
        }
        TokenTree::Punct(punct) if punct.as_char() == '&' => {
            !matches!(tokens.get(at + 2), Some(TokenTree::Ident(name)) if name == "static")
        }
        TokenTree::Punct(_) | TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    })
}

/// Returns a type without the groups that macros put around it.
fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain(&group.elem),
        Type::Paren(paren) => plain(&paren.elem),
        other => other,
    }
}

/// Returns the last segment of a path, and whether it is the only one.
fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match plain(ty) {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    }
}

fn is_client(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else { return false };
    let Type::Path(path) = plain(&reference.elem) else { return false };
    let segments: Vec<String> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    // A client of another crate has another path, such as reqwest::Client.
    match &segments[..] {
        [name] => name == "Client",
        [krate, name] => krate == "terrace_client" && name == "Client",
        _ => false,
    }
}

/// Returns whether results are likely to depend on a parameter: values, and references to text and numbers.
fn is_value(param: &Param) -> bool {
    match &param.kind {
        Kind::Client => false,
        Kind::Owned => true,
        Kind::Borrowed(inner) => match &**inner {
            Type::Slice(_) | Type::Array(_) | Type::Tuple(_) => true,
            other => last_segment(other).is_some_and(|segment| VALUE_TYPES.iter().any(|name| segment.ident == name)),
        },
    }
}

fn check_names(params: &[Param], options: &Options) -> Result<()> {
    let find = |name: &str| params.iter().find(|param| param.ident == name);
    let known = || {
        let names = params.iter().filter(|param| !matches!(param.kind, Kind::Client));
        names.map(|param| param.ident.to_string()).collect::<Vec<_>>().join(", ")
    };
    for template in std::iter::once(&options.key).chain(&options.tags) {
        for name in template.names() {
            match find(name) {
                Some(Param { kind: Kind::Client, .. }) => {
                    return Err(Error::new(template.span, format!("`{name}` is the client of the cache")));
                }
                Some(_) => {}
                None => {
                    let text = format!("the function has no parameter `{name}`; it has {}", known());
                    return Err(Error::new(template.span, text));
                }
            }
        }
    }
    let is_named = |ident: &Ident| options.names().any(|name| ident == name);
    for ident in &options.skip {
        if find(&ident.to_string()).is_none() {
            let text = format!("the function has no parameter `{ident}`; it has {}", known());
            return Err(Error::new(ident.span(), text));
        }
        if is_named(ident) {
            return Err(Error::new(
                ident.span(),
                format!("`{ident}` is in the key or in a tag, and cannot be skipped"),
            ));
        }
    }
    let forgotten =
        params.iter().find(|param| is_value(param) && !is_named(&param.ident) && !options.skip.contains(&param.ident));
    match forgotten {
        Some(Param { ident, .. }) => {
            let text = format!(
                "`{ident}` is not in the key: calls with different values of `{ident}` would share one result; add {{{ident}}} \
                 to the key, or skip({ident}) if the result does not depend on it"
            );
            Err(Error::new(ident.span(), text))
        }
        None => Ok(()),
    }
}

fn returned(output: &ReturnType, options: &Options) -> Result<Returned> {
    const EXPECTED: &str = "a cached function returns Result<Option<T>, E>, where None means that the origin does not have the \
                            key, or Result<T, E>";
    let ReturnType::Type(_, output) = output else {
        return Err(Error::new(proc_macro2::Span::call_site(), EXPECTED));
    };
    let Some(result) = argument(output, "Result") else {
        return Err(Error::new_spanned(output, EXPECTED));
    };
    let optional = argument(result, "Option");
    if let (None, Some(span)) = (optional, options.negative_ttl) {
        let text = "negative_ttl requires a function that returns Result<Option<T>, E>, where None means that the origin does \
                    not have the key";
        return Err(Error::new(span, text));
    }
    let inner = optional.unwrap_or(result);
    let shared = argument(inner, "Arc").filter(|shared| !is_unsized(shared));
    Ok(Returned {
        value: shared.unwrap_or(inner).clone(),
        is_optional: optional.is_some(),
        is_shared: shared.is_some(),
    })
}

/// Returns whether a type has no codec of its own: `Arc<str>` has one as a whole.
fn is_unsized(ty: &Type) -> bool {
    matches!(ty, Type::Slice(_) | Type::TraitObject(_))
        || last_segment(ty).is_some_and(|segment| segment.ident == "str")
}

/// Returns the first generic argument of a type with a name.
fn argument<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let segment = last_segment(ty).filter(|segment| segment.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(plain(ty)),
        _ => None,
    })
}
