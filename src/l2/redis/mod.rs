//! Redis as L2.
