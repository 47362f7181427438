//! Finds commands by name and by number.

use super::{
    command::{Found, Row, readable},
    frame::Args,
    reply::Refusal,
};

/// Number of slots of the hash index; about a quarter is used.
const SLOTS: usize = 1024;
/// Maximum size of a command name that is looked up.
const NAME_MAX_BYTES: usize = 32;

/// All supported commands, with an index by name.
pub(super) struct Commands {
    /// All commands, in the order of their numbers.
    pub(super) rows: &'static [Row],
    /// Number of rows, subcommands included.
    count: usize,
    /// Rejected commands of Redis, each with the reason.
    refused: &'static [(&'static str, &'static str)],
    /// Row numbers plus one by hash of the name; 0 for an empty slot.
    slots: [u16; SLOTS],
}

impl Commands {
    /// Builds the index. `count` is the number of all rows, subcommands included.
    pub(super) const fn new(
        rows: &'static [Row],
        count: usize,
        refused: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { rows, count, refused, slots: slots(rows) }
    }

    /// Returns the row of a name. Ignores case.
    #[inline]
    pub(super) fn find(&self, name: &[u8]) -> Option<Found> {
        if name.len() > NAME_MAX_BYTES {
            return None;
        }
        let mut slot = hash(name);
        loop {
            let place = usize::from(self.slots[slot]);
            let number = place.checked_sub(1)?;
            let row = &self.rows[number];
            if row.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(Found { row, number });
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Returns the row of a request: the subcommand's row, if the request has a subcommand.
    ///
    /// # Errors
    /// Unknown command or subcommand, with the error text of Redis.
    #[inline]
    pub(super) fn resolve(&self, args: Args<'_>) -> Result<Found, Refusal> {
        let Some(found) = self.find(args.at(0)) else { return Err(self.unknown(args)) };
        if found.row.subcommands.is_empty() { Ok(found) } else { resolve_subcommand(found, args) }
    }

    /// Returns the row with this number.
    pub(super) fn by_number(&self, number: usize) -> Option<Found> {
        let subcommands = || self.rows.iter().flat_map(|row| row.subcommands);
        let row = self.rows.get(number).or_else(|| subcommands().nth(number - self.rows.len()))?;
        Some(Found { row, number })
    }

    /// Returns the name of the row with this number.
    pub(super) fn name_of(&self, number: usize) -> &'static str {
        self.by_number(number).map_or("", |found| found.row.name)
    }

    /// Returns the numbers of all rows.
    pub(super) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.count
    }

    #[cold]
    fn unknown(&self, args: Args<'_>) -> Refusal {
        let mut refused = self.refused.iter();
        if let Some((name, reason)) = refused.find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(args.at(0))) {
            return Refusal::text(format!("ERR {} is refused: {reason}", name.to_ascii_uppercase()));
        }
        let name = readable(args.at(0), 128);
        let mut beginning = String::new();
        for arg in args.from(1).iter() {
            if beginning.len() >= 128 {
                break;
            }
            let left = 128 - beginning.len();
            beginning.push('\'');
            beginning.push_str(&readable(arg, left));
            beginning.push_str("' ");
        }
        Refusal::text(format!("ERR unknown command '{name}', with args beginning with: {beginning}"))
    }
}

fn resolve_subcommand(container: Found, args: Args<'_>) -> Result<Found, Refusal> {
    let Some(name) = args.get(1) else { return Ok(container) };
    find_subcommand(container.row, name).ok_or_else(|| {
        let (name, upper) = (readable(name, 128), container.row.name.to_ascii_uppercase());
        Refusal::text(format!("ERR unknown subcommand '{name}'. Try {upper} HELP."))
    })
}

/// Returns the subcommand with this name. Ignores case.
pub(super) fn find_subcommand(container: &'static Row, name: &[u8]) -> Option<Found> {
    let is_it = |row: &Row| row.short_name().as_bytes().eq_ignore_ascii_case(name);
    let at = container.subcommands.iter().position(is_it)?;
    Some(Found { row: &container.subcommands[at], number: container.subcommands_base + at })
}

/// Returns the row number of an existing command at compile time.
pub(super) const fn number_of(rows: &[Row], name: &[u8]) -> usize {
    let mut number = 0;
    while !rows[number].name.as_bytes().eq_ignore_ascii_case(name) {
        number += 1;
    }
    number
}

const fn slots(rows: &[Row]) -> [u16; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut row = 0;
    while row < rows.len() {
        let mut slot = hash(rows[row].name.as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        row += 1;
        assert!(row < SLOTS / 2, "the table outgrew its index");
        slots[slot] = row as u16;
    }
    slots
}

const fn hash(name: &[u8]) -> usize {
    let mut hash = name.len();
    let mut at = 0;
    while at < name.len() {
        // Folds case. The comparison of names distinguishes different bytes that fold to the same value.
        hash = hash.wrapping_mul(31).wrapping_add((name[at] | 0x20) as usize);
        at += 1;
    }
    (hash ^ (hash >> 8)) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::table::COMMANDS;

    #[test]
    fn each_row_is_found_in_any_case_under_its_number() {
        for (number, row) in COMMANDS.rows.iter().enumerate() {
            let found = COMMANDS.find(row.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!((found.number, found.row.name), (number, row.name));
        }
        assert!(COMMANDS.find(b"").is_none());
        assert!(COMMANDS.find(b"GETT").is_none());
        assert!(COMMANDS.find(&[b'a'; 100]).is_none());
    }

    #[test]
    fn each_subcommand_has_a_number_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        let rows = COMMANDS.rows.iter();
        for row in rows.flat_map(|container| container.subcommands.iter().map(move |row| (container, row))) {
            let found = find_subcommand(row.0, row.1.short_name().as_bytes()).unwrap();
            assert_eq!(COMMANDS.name_of(found.number), row.1.name);
            assert!(seen.insert(found.number));
        }
        assert_eq!(seen.len() + COMMANDS.rows.len(), COMMANDS.numbers().len());
    }
}
