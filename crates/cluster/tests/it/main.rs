//! Behaviour of whole deployments: against recordings, and under random load.

#![expect(clippy::disallowed_methods, reason = "tests read recordings")]

mod affinity;
mod cached_prompts;
mod conservation;
mod drive;
mod first_token;
mod forever;
mod graph;
mod host;
mod kv_router;
mod life;
mod lifecycle;
mod oracle_peer;
mod oracle_router;
mod order;
mod pairs;
mod peer;
mod properties;
mod routing;
mod scenario;
mod streamed;
mod theory;
