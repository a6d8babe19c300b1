//! How the leader takes power.
