//! Key templates: text with named arguments, such as `user:{id}:cart`.

use std::fmt::{Display, Write};

use bytes::Bytes;

use crate::error::{Error, Result};

/// Arguments of a key template: one value such as a number or a text, or a tuple of up to six values.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument list of a key",
    note = "pass a number, a text, or a tuple of values that implement `Display`, such as `(id,)`"
)]
pub trait KeyArgs {
    /// Returns the number of arguments.
    fn count(&self) -> usize;

    /// Appends the argument at an index.
    fn write(&self, index: usize, text: &mut String);
}

macro_rules! one {
    ($($type:ty),*) => {
        $(impl KeyArgs for $type {
            fn count(&self) -> usize {
                1
            }

            fn write(&self, _index: usize, text: &mut String) {
                append(text, self);
            }
        })*
    };
}

macro_rules! tuple {
    ($count:literal: $($name:ident $index:tt),*) => {
        impl<$($name: Display),*> KeyArgs for ($($name,)*) {
            fn count(&self) -> usize {
                $count
            }

            fn write(&self, index: usize, text: &mut String) {
                match index {
                    $($index => append(text, &self.$index),)*
                    _ => {}
                }
            }
        }
    };
}

one!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, &str, String, &String);
impl KeyArgs for () {
    fn count(&self) -> usize {
        0
    }

    fn write(&self, _index: usize, _text: &mut String) {}
}

tuple!(1: A 0);
tuple!(2: A 0, B 1);
tuple!(3: A 0, B 1, C 2);
tuple!(4: A 0, B 1, C 2, D 3);
tuple!(5: A 0, B 1, C 2, D 3, E 4);
tuple!(6: A 0, B 1, C 2, D 3, E 4, F 5);

fn append(text: &mut String, argument: &impl Display) {
    // Writing to a string fails only if the argument reports an error.
    let _failed = write!(text, "{argument}");
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Index of the argument.
    Argument(usize),
}

/// A template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    text: String,
    parts: Vec<Part>,
}

impl Template {
    /// Parses a template. New names are appended to `names` if `may_add`.
    ///
    /// # Errors
    /// A brace is not closed, or a name is empty or unknown.
    pub(crate) fn parse(text: &str, names: &mut Vec<String>, may_add: bool) -> Result<Self> {
        let invalid = |why: String| Error::invalid(format!("invalid key template {text:?}: {why}"));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let Some(inner) = rest[open..].strip_prefix('{') else {
                return Err(invalid("a `}` has no `{`".to_owned()));
            };
            let Some((name, after)) = inner.split_once('}') else {
                return Err(invalid("a `{` has no `}`".to_owned()));
            };
            if name.is_empty() || !name.chars().all(|char| char.is_alphanumeric() || char == '_') {
                return Err(invalid(format!("the name {name:?} is not valid; expected letters, digits and `_`")));
            }
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let index = match names.iter().position(|known| known == name) {
                Some(index) => index,
                None if may_add => {
                    names.push(name.to_owned());
                    names.len() - 1
                }
                None => return Err(invalid(format!("the key has no argument {name:?}; it has {}", names.join(", ")))),
            };
            parts.push(Part::Argument(index));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Returns the key for arguments, of which there are `expected`.
    ///
    /// # Errors
    /// The number of arguments is wrong.
    pub(crate) fn key(&self, arguments: &impl KeyArgs, expected: usize) -> Result<Bytes> {
        if arguments.count() != expected {
            let text = &self.text;
            let text = format!("the key template {text:?} has {expected} arguments; got {}", arguments.count());
            return Err(Error::invalid(text));
        }
        let mut key = String::with_capacity(self.text.len() + 16);
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Argument(index) => arguments.write(*index, &mut key),
            }
        }
        Ok(key.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, arguments: &impl KeyArgs) -> Result<Bytes> {
        let mut names = Vec::new();
        let template = Template::parse(template, &mut names, true)?;
        template.key(arguments, names.len())
    }

    #[test]
    fn arguments_are_inserted_in_the_order_of_their_first_use() {
        assert_eq!(key("user:{id}:cart", &7).expect("a key"), "user:7:cart");
        assert_eq!(key("{a}:{b}:{a}", &("x", 5)).expect("a key"), "x:5:x");
        assert_eq!(key("all", &()).err().map(|error| error.message().to_owned()), None);
    }

    #[test]
    fn faulty_templates_and_arguments_are_refused_with_their_text() {
        for (template, has) in [
            ("user:{id", "a `{` has no `}`"),
            ("user:id}", "a `}` has no `{`"),
            ("user:{}", "the name \"\" is not valid"),
            ("user:{a b}", "the name \"a b\" is not valid"),
        ] {
            let error = key(template, &1).expect_err("a fault");
            assert!(error.message().contains(has), "{error}");
            assert!(error.message().contains(template), "{error}");
        }
        let error = key("{a}:{b}", &1).expect_err("a fault");
        assert_eq!(error.message(), "the key template \"{a}:{b}\" has 2 arguments; got 1");
        let mut names = vec!["id".to_owned()];
        let error = Template::parse("team:{team}", &mut names, false).expect_err("a fault");
        assert!(error.message().contains("the key has no argument \"team\"; it has id"), "{error}");
    }
}
