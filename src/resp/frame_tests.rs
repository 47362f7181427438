//! The frame parser, by value: every split, hostile lengths, limits.
