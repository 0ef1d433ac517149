//! The answer of a search for a deployment, as one page for a browser.

use serde::Serialize;

use crate::page::{COMMON, skeleton};
use crate::runs_page::{FRONT, OVERLAY};

const SCRIPT: &str = include_str!("../page/recommend.js");

/// Renders the page of a recommendation from what its script shows, which `servecast-recommend` puts together.
pub fn render_recommendation(data: &impl Serialize) -> String {
    skeleton("servecast recommendation", &[COMMON, FRONT, OVERLAY, SCRIPT], data)
}
