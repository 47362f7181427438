//! Files of the store: its directory, the generations in it, and the table of rows of each generation.

mod batch_numbers;
pub(crate) mod directory;
pub(crate) mod generation;
mod journal;
mod journal_repair;
mod reconcile;
pub(crate) mod reserve;
pub(crate) mod rows;
pub(crate) mod table;
mod table_lists;
