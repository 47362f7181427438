//! What tests start and ask: Terrace on port 0, a real redis-server, conditions to wait for.
