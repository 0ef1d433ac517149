//! What a user of operator packs sees.

mod cost;
mod support;
