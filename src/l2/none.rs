//! Nothing below L1: L1 is the store.
