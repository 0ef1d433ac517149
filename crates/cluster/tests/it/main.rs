//! Behaviour of whole deployments: against recordings, and under random load.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests read recordings and say when they are skipped"
)]

mod kv_router;
mod lifecycle;
mod oracle_peer;
mod oracle_router;
mod peer;
mod properties;
mod scenario;
