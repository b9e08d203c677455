//! What the commands that use a store have in common.

/// Where the store is, unless the command line says otherwise.
pub(super) const DEFAULT_STORE: &str = "hawk.db";
