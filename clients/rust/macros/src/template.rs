//! Key and tag templates: text with names of parameters, such as `user:{id}:cart`. The syntax is the same as for
//! `Client::view`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, Ident, LitStr, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

/// A template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) span: Span,
    parts: Vec<Part>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The template is empty, a brace has no counterpart, a name is not valid, or two names have no text between them.
    pub(crate) fn parse(text: &LitStr) -> Result<Self> {
        let parts = parse(&text.value()).map_err(|why| Error::new(text.span(), why))?;
        Ok(Self { span: text.span(), parts })
    }

    /// Returns the names of the parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Returns code of type `String`. `ident` returns the parameter of a name.
    pub(crate) fn code<'a>(&self, ident: impl Fn(&str) -> Option<&'a Ident>) -> TokenStream {
        let mut format = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => format.push_str(text),
                Part::Name(_) => format.push_str("{}"),
            }
        }
        let arguments = self.names().filter_map(ident);
        quote! { ::std::format!(#format #(, #arguments)*) }
    }
}

fn parse(text: &str) -> std::result::Result<Vec<Part>, String> {
    if text.is_empty() {
        return Err("the template is empty; expected text such as \"user:{id}\"".to_owned());
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let inner = rest[open..].strip_prefix('{').ok_or_else(|| format!("a `}}` of {text:?} has no `{{`"))?;
        let (name, after) = inner.split_once('}').ok_or_else(|| format!("a `{{` of {text:?} has no `}}`"))?;
        if syn::parse_str::<Ident>(name).is_err() {
            return Err(format!("the name {name:?} in {text:?} is not valid; expected the name of a parameter"));
        }
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        } else if let Some(Part::Name(previous)) = parts.last() {
            return Err(format!(
                "{{{previous}}} and {{{name}}} have no text between them, so that different arguments could form the same \
                 text; write for example {{{previous}}}:{{{name}}}"
            ));
        }
        parts.push(Part::Name(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_text_and_names() {
        let text = |text: &str| Part::Text(text.to_owned());
        let name = |name: &str| Part::Name(name.to_owned());
        assert_eq!(parse("user:{id}:cart"), Ok(vec![text("user:"), name("id"), text(":cart")]));
        assert_eq!(parse("{a}:{b}"), Ok(vec![name("a"), text(":"), name("b")]));
        assert_eq!(parse("all"), Ok(vec![text("all")]));
    }

    #[test]
    fn faulty_templates_are_refused_with_the_reason() {
        for (template, has) in [
            ("", "the template is empty"),
            ("user:{id", "a `{` of \"user:{id\" has no `}`"),
            ("user:id}", "a `}` of \"user:id}\" has no `{`"),
            ("user:{}", "the name \"\" in \"user:{}\" is not valid"),
            ("user:{id:04}", "the name \"id:04\""),
            ("{a}{b}", "write for example {a}:{b}"),
        ] {
            let error = parse(template).expect_err("a fault");
            assert!(error.contains(has), "{template}: {error}");
        }
    }
}
