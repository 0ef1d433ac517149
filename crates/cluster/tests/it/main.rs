//! Behaviour of whole deployments: against recordings, and under random load.

mod lifecycle;
mod oracle_peer;
mod oracle_router;
mod peer;
mod properties;
