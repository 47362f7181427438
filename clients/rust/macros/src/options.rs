//! Arguments of the attribute.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{
    Error, Expr, ExprArray, ExprLit, Ident, Lit, LitBool, LitStr, Path, Result, Token,
    ext::IdentExt,
    parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

use crate::{
    duration::{self, ANY, LEASE, LIFETIME, Range, WAIT},
    template::Template,
};

/// Options that are durations, with the setter of `LoadOptions` and the range.
const DURATIONS: [(&str, Range); 7] = [
    ("ttl", LIFETIME),
    ("stale", ANY),
    ("negative_ttl", LIFETIME),
    ("wait", WAIT),
    ("soft_timeout", ANY),
    ("load_timeout", LIFETIME),
    ("lease", LEASE),
];
/// All options, for messages.
const ALL: &str = "key, ttl, stale, negative_ttl, tags, client, codec, skip, wait, soft_timeout, load_timeout, lease, \
                   on_unavailable, share_errors, crate";
/// Maximum number of tags of the server.
const TAGS_MAX: usize = 16;

/// Arguments of the attribute.
pub(crate) struct Options {
    pub(crate) key: Template,
    pub(crate) tags: Vec<Template>,
    /// Parameters that are not part of the key.
    pub(crate) skip: Vec<Ident>,
    /// Expression of type `Client`, `&Client` or `Arc<Client>`.
    pub(crate) client: Option<Expr>,
    pub(crate) codec: Option<Expr>,
    /// Calls of setters of `LoadOptions`.
    pub(crate) setters: TokenStream,
    pub(crate) negative_ttl: Option<Span>,
    /// Path of `terrace-client`.
    pub(crate) krate: TokenStream,
}

/// Options that were parsed so far.
#[derive(Default)]
struct Partial {
    seen: Vec<Ident>,
    key: Option<Template>,
    tags: Vec<Template>,
    skip: Vec<Ident>,
    client: Option<Expr>,
    codec: Option<Expr>,
    durations: Vec<(Ident, Expr, Range)>,
    on_unavailable: Option<Ident>,
    share_errors: Option<LitBool>,
    krate: Option<Path>,
}

impl Options {
    /// Returns the names of the parameters in the key and in tags.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.key.names().chain(self.tags.iter().flat_map(Template::names))
    }
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut partial = Partial::default();
        while !input.is_empty() {
            partial.option(input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        partial.complete()
    }
}

impl Partial {
    fn option(&mut self, input: ParseStream<'_>) -> Result<()> {
        let name = input.call(Ident::parse_any)?;
        if self.seen.contains(&name) {
            return Err(Error::new(name.span(), format!("the option `{name}` is set twice")));
        }
        self.seen.push(name.clone());
        let text = name.to_string();
        if text == "skip" {
            let list;
            parenthesized!(list in input);
            self.skip.extend(Punctuated::<Ident, Token![,]>::parse_terminated(&list)?);
            return Ok(());
        }
        if text == "share_errors" && !input.peek(Token![=]) {
            self.share_errors = Some(LitBool::new(true, name.span()));
            return Ok(());
        }
        let is_known = ALL.split(", ").any(|known| known == text);
        if !is_known {
            return Err(Error::new(name.span(), format!("unknown option `{name}`; expected one of {ALL}")));
        }
        input.parse::<Token![=]>()?;
        self.value(name, &text, input)
    }

    fn value(&mut self, name: Ident, text: &str, input: ParseStream<'_>) -> Result<()> {
        match text {
            "key" => self.key = Some(Template::parse(&input.parse::<LitStr>()?)?),
            "tags" => self.tags = tags(&input.parse()?)?,
            "client" => self.client = Some(input.parse()?),
            "codec" => self.codec = Some(input.parse()?),
            "on_unavailable" => self.on_unavailable = Some(on_unavailable(&input.parse()?)?),
            "share_errors" => self.share_errors = Some(input.parse()?),
            "crate" => self.krate = Some(input.call(Path::parse_mod_style)?),
            _ => {
                let range = DURATIONS.iter().find(|(known, _)| *known == text).map_or(ANY, |(_, range)| *range);
                self.durations.push((name, input.parse()?, range));
            }
        }
        Ok(())
    }

    fn complete(self) -> Result<Options> {
        let Some(key) = self.key else {
            let text = "the option `key` is missing; write for example #[cached(key = \"user:{id}\", ttl = \"5m\")]";
            return Err(Error::new(Span::call_site(), text));
        };
        let krate = self.krate.map_or_else(|| quote! { ::terrace_client }, ToTokens::into_token_stream);
        let mut setters = TokenStream::new();
        let mut negative_ttl = None;
        for (name, value, range) in &self.durations {
            let value = duration::code(value, *range)?;
            setters.extend(quote! { .#name(#value) });
            if name == "negative_ttl" {
                negative_ttl = Some(name.span());
            }
        }
        if let Some(variant) = self.on_unavailable {
            setters.extend(quote! { .on_unavailable(#krate::OnUnavailable::#variant) });
        }
        if let Some(share) = self.share_errors {
            setters.extend(quote! { .share_errors(#share) });
        }
        let Self { tags, skip, client, codec, .. } = self;
        Ok(Options { key, tags, skip, client, codec, setters, negative_ttl, krate })
    }
}

fn tags(list: &ExprArray) -> Result<Vec<Template>> {
    if list.elems.len() > TAGS_MAX {
        let text = format!("{} tags; expected at most {TAGS_MAX}", list.elems.len());
        return Err(Error::new_spanned(list, text));
    }
    list.elems.iter().map(|tag| Template::parse(&literal(tag, "a tag is a text such as \"user:{id}\"")?)).collect()
}

fn literal(value: &Expr, expected: &str) -> Result<LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
        _ => Err(Error::new_spanned(value, expected)),
    }
}

fn on_unavailable(text: &LitStr) -> Result<Ident> {
    let variant = match text.value().as_str() {
        "load" => "Load",
        "stale" => "Stale",
        "error" => "Error",
        other => {
            let text_of_error = format!("unknown behavior {other:?}; expected \"load\", \"stale\" or \"error\"");
            return Err(Error::new(text.span(), text_of_error));
        }
    };
    Ok(Ident::new(variant, text.span()))
}
