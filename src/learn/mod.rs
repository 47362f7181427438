//! What this node learns from its traffic: which keys follow which, and what keys look like.
//!
//! Synchronous and without a clock, but for the [`recorder`]: everything is told what happened and when, and is tested with
//! values.
//!
//! * [`intervals`]: how often keys are read and change, and which TTL that asks for.
//! * [`shape`]: splits keys into tokens and learns which of them vary.
//! * [`recorder`]: how workers tell what happens, without ever waiting.

pub mod intervals;
pub mod recorder;
pub mod shape;
