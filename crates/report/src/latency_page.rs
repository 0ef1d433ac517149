//! What iteration times are made of, as one page for a browser.

use serde::Serialize;

use crate::page::{COMMON, skeleton};

const SCRIPT: &str = include_str!("../page/latency.js");

/// What is on the page of iteration times.
#[derive(Debug, Clone, Serialize)]
pub struct LatencyPage {
    /// What was composed.
    pub title: String,
    /// What else there is to say, in short sentences.
    pub about: Vec<String>,
    /// Parts of a pass; the places of [`PartTimes::parts_ms`].
    pub parts: Vec<&'static str>,
    /// Kinds of passes, a chart each.
    pub charts: Vec<PartTimes>,
    /// The parts of a pass, where their times are from, and whether that is an estimate.
    pub origins: Vec<(&'static str, String, bool)>,
}

/// What a kind of pass takes over its size.
#[derive(Debug, Clone, Serialize)]
pub struct PartTimes {
    /// Where it is on the page.
    pub id: &'static str,
    /// What it is called.
    pub title: String,
    /// What the size counts.
    pub size: &'static str,
    /// Sizes of passes.
    pub sizes: Vec<u64>,
    /// A pass of each size, in ms.
    pub pass_ms: Vec<f64>,
    /// Its parts before constants that were fitted, a list by size for each.
    pub parts_ms: Vec<Vec<f64>>,
}

/// Renders the page of iteration times, which needs no other file.
pub fn render_latency_page(page: &LatencyPage) -> String {
    skeleton("servecast iteration times", &[COMMON, SCRIPT], page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_part_and_needs_nothing_else() {
        let page = render_latency_page(&LatencyPage {
            title: "</script>".to_owned(),
            about: Vec::new(),
            parts: vec!["experts", "head"],
            charts: vec![PartTimes {
                id: "decodes",
                title: "Decodes".to_owned(),
                size: "requests",
                sizes: vec![1, 2],
                pass_ms: vec![3.0, 4.0],
                parts_ms: vec![vec![1.0, 2.0], vec![2.0, 2.0]],
            }],
            origins: vec![("experts", "a table".to_owned(), false)],
        });
        for reference in ["src=", "<link", "@import", "url(", "fetch(", "/*DATA*/"] {
            assert!(!page.contains(reference), "{reference}");
        }
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        let data: serde_json::Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(
            (&data["title"], &data["charts"][0]["parts_ms"][1][0]),
            (&"</script>".into(), &2.0.into())
        );
    }
}
