//! Behaviour tests: one module per behaviour, one binary, so that they link once.

#[path = "../support/mod.rs"]
mod support;
