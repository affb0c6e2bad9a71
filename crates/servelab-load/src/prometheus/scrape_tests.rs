use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::clock;
use crate::testserver::Server;

fn metrics(index: usize) -> String {
    format!("vllm:n{{engine=\"0\"}} {index}\nh_bucket{{le=\"1\"}} {index}\nh_created 1\nbad line here x\n")
}

fn target(server: &Server, node: &str, path: &str) -> ScrapeTarget {
    ScrapeTarget { node: node.to_owned(), url: format!("{}{path}", server.url()) }
}

#[test]
fn scrapes_from_start_to_stop() {
    let server = Server::start(|exchange| {
        assert!(exchange.head.starts_with("GET /metrics "));
        exchange.plain("200 OK", &metrics(exchange.index))
    });
    let options = ScrapeOptions { interval_ns: 20_000_000, ..ScrapeOptions::default() };
    let epoch = clock::new_epoch();
    let scraper = Scraper::start(vec![target(&server, "a", "/metrics")], &options, epoch).unwrap();
    assert!(server.counts.requests.load(SeqCst) >= 1, "the first scrape is done when start returns");
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.counts.requests.load(SeqCst) < 5 && Instant::now() < deadline {
        thread::yield_now();
    }
    let outcome = scraper.stop();
    let stats = &outcome.targets[0];
    let n = server.counts.requests.load(SeqCst);
    assert!(n >= 6 && stats.n_ok == n as u64 && stats.n_failed == 0, "{stats:?}");
    assert_eq!(stats.bad_lines, stats.n_ok);
    let of = |metric: &str| outcome.samples.iter().filter(move |sample| sample.metric == metric).collect::<Vec<_>>();
    let values: Vec<f64> = of("vllm:n").iter().map(|sample| sample.value).collect();
    assert_eq!(values, (0..n).map(|i| i as f64).collect::<Vec<_>>(), "in order of time");
    let buckets: Vec<f64> = of("h_bucket").iter().map(|sample| sample.value).collect();
    assert_eq!(buckets, [0.0, (n - 1) as f64], "first and last");
    assert!(of("h_created").is_empty());
    assert!(outcome.samples.iter().all(|sample| sample.node == "a" && sample.t_ns > 0));
}

#[test]
fn a_target_without_metrics_is_reported_and_disturbs_nobody() {
    let server = Server::start(|exchange| {
        if exchange.head.starts_with("GET /metrics ") {
            exchange.plain("200 OK", "m 1\n")
        } else {
            exchange.plain("404 Not Found", "{}")
        }
    });
    let refused = ScrapeTarget { node: "gone".to_owned(), url: "http://127.0.0.1:1/metrics".to_owned() };
    let targets = vec![refused, target(&server, "bad", "/none"), target(&server, "good", "/metrics")];
    let outcome = Scraper::start(targets, &ScrapeOptions::default(), clock::new_epoch()).unwrap().stop();
    let summary: Vec<(&str, u64, u64)> =
        outcome.targets.iter().map(|stats| (stats.node.as_str(), stats.n_ok, stats.n_failed)).collect();
    assert_eq!(summary, [("gone", 0, 2), ("bad", 0, 2), ("good", 2, 0)]);
    assert!(outcome.targets[0].last_error.as_deref().unwrap().contains("127.0.0.1:1"));
    assert_eq!(outcome.targets[1].last_error.as_deref(), Some("HTTP status 404"));
    assert_eq!(outcome.samples.len(), 2);
}

#[test]
fn the_blocking_client() {
    let server = Server::start(|exchange| {
        let head = exchange.head.to_lowercase();
        if head.starts_with("post") && head.contains("authorization: bearer k\r\n") && exchange.body == r#"{"a":1}"# {
            exchange.plain("200 OK", "posted")
        } else {
            exchange.plain("503 Busy", "later")
        }
    });
    let timeout = Duration::from_secs(5);
    let key = crate::ApiKey::new("k").unwrap();
    let posted = crate::http::post_json(&server.url(), &serde_json::json!({"a": 1}), timeout, Some(&key)).unwrap();
    assert_eq!((posted.status, posted.body.as_str(), posted.is_success()), (200, "posted", true));
    let busy = crate::http::get_text(&server.url(), timeout, None).unwrap();
    assert_eq!((busy.status, busy.body.as_str(), busy.is_success()), (503, "later", false));
    let error = crate::http::get_text("http://127.0.0.1:1/health", timeout, None).unwrap_err();
    assert!(error.is_refused(), "{error}");
    assert!(error.to_string().contains("http://127.0.0.1:1/health"), "{error}");
}
