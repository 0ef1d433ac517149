//! The page of the metrics against that of the real server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use testkit::ORACLE;

use crate::client::{get, post};
use crate::server::Server;

/// Of each family its type, and the labels and buckets of its series without values.
fn families(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in page.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = [
                name,
                name.trim_end_matches("_bucket"),
                name.trim_end_matches("_sum"),
                name.trim_end_matches("_count"),
            ]
            .into_iter()
            .find(|name| kinds.contains_key(*name))
            .unwrap_or_else(|| panic!("{name} has no type"));
            let entry = families.entry(family.to_owned()).or_default();
            entry.0.clone_from(&kinds[family]);
            entry.1.insert(series.to_owned());
        }
    }
    families
}

/// Families of the real page that ours does not have, each with the cause.
fn exception(name: &str) -> Option<&'static str> {
    if name.starts_with("python_") || name.starts_with("process_") {
        return Some("they are of the Python process");
    }
    (name == "vllm:cache_config_info").then_some("labels are settings of vLLM that ours does not have")
}

#[test]
fn the_page_has_the_series_of_the_real_one() {
    let Some(root) = testkit::outside(ORACLE) else { return };
    let theirs = std::fs::read_to_string(root.join("live/metrics/0-fresh.txt")).unwrap();
    let server = Server::new();
    let ours = get(server.address, "/metrics");
    let kind = ours.headers.iter().find(|(name, _)| name == "content-type").unwrap();
    assert_eq!(kind.1, "text/plain; version=0.0.4; charset=utf-8");
    let (ours, theirs) = (families(&ours.body), families(&theirs));
    for (name, theirs) in &theirs {
        match (ours.get(name), exception(name)) {
            (Some(ours), None) => assert_eq!(ours, theirs, "{name}"),
            (None, None) => panic!("{name} is missing"),
            (_, Some(_)) => {}
        }
    }
    assert!(ours.keys().all(|name| theirs.contains_key(name)), "{:?}", ours.keys());
}

#[test]
fn requests_are_counted_by_path_method_and_status() {
    let server = Server::new();
    let body = json!({"prompt": "x", "max_tokens": 2, "stream": true});
    post(server.address, "/v1/completions", &body).answer(false);
    post(server.address, "/v1/completions", &json!({"prompt": "x", "max_tokens": -1})).answer(false);
    get(server.address, "/nothing");
    get(server.address, "/health");
    let counted = |page: &str| {
        let lines = page.lines().filter(|line| line.starts_with("http_requests_total{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut page = get(server.address, "/metrics").body;
    // A stream counts when it has ended, which the client may know first.
    while counted(&page).len() < 3 {
        page = get(server.address, "/metrics").body;
    }
    assert_eq!(
        counted(&page),
        [
            "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"} 1.0",
            "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"4xx\"} 1.0",
            "http_requests_total{handler=\"none\",method=\"GET\",status=\"4xx\"} 1.0",
        ]
    );
    let Some(root) = testkit::outside(ORACLE) else { return };
    let theirs = std::fs::read_to_string(root.join("live/metrics/5-end.txt")).unwrap();
    let of_paths = |page: &str| -> BTreeMap<String, (String, BTreeSet<String>)> {
        let all = families(page).into_iter().filter(|(name, _)| name.starts_with("http_"));
        let known = ["handler=\"/v1/completions\"", "handler=\"none\",method=\"GET\""];
        let of = |(kind, series): (String, BTreeSet<String>)| {
            (kind, series.into_iter().filter(|one| known.iter().any(|known| one.contains(known))).collect())
        };
        all.map(|(name, family)| (name, of(family))).collect()
    };
    assert_eq!(of_paths(&page), of_paths(&theirs));
}
