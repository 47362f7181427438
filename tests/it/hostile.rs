//! One client cannot hurt another: while a client takes memory and reads nothing, calls of other clients succeed, the
//! memory of the process stays within the byte budget, and the process drains.

mod attacks;
mod fair;
mod victim;

pub use victim::Victim;
