//! The page of traces in a real browser without a screen: scripts run without an error, the time line answers keys, and
//! the page asks for nothing outside. Left out where no browser was asked for.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use super::place;

fn browser() -> Option<String> {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "chromium") {
        // Past libtest's capture: that something was left out must be seen when everything passes.
        let _ = std::io::stderr().write_all(
            b"left out: real_chromium, which needs a browser. Run it with\n  \
              SERVELAB_REAL=chromium cargo test -p servelab --test it real_chromium -- --nocapture\n",
        );
        return None;
    }
    Some(std::env::var("SERVELAB_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned()))
}

#[test]
fn the_page_of_traces_works_in_a_browser() {
    let Some(browser) = browser() else { return };
    let place = place();
    let mut events = Vec::new();
    for step in 0..4 {
        let start = 1000 * step;
        events.push(json!({"ph": "X", "cat": "user_annotation", "name": format!("ProfilerStep#{step}"), "pid": 1, "tid": 1, "ts": start, "dur": 900}));
        events.push(json!({"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": start + 10, "dur": 500, "args": {"device": 0, "stream": 7}}));
    }
    place.write("trace.json", &json!({"traceEvents": events}).to_string());
    place.servelab("trace summary trace.json --html page.html").run().expect(0);
    // The browser prints the page as its script left it; keys are pressed by a script of the test.
    let page = place.read("page.html").replace(
        "</body>",
        "<script>const box = document.querySelector('.timeline'); \
         for (const key of ['n', 'n', '+']) box.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})); \
         document.title = 'keys pressed';</script></body>",
    );
    place.write("pressed.html", &page);
    let address = format!("file://{}", place.path().join("pressed.html").display());
    let profile = format!("--user-data-dir={}", place.path().join("browser").display());
    let run = |more: &[&str]| {
        let output = Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000", &profile])
            .args(more)
            .arg(&address)
            .current_dir(place.path())
            .output();
        let output =
            output.unwrap_or_else(|error| panic!("SERVELAB_REAL=chromium, and `{browser}` does not start: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dom = run(&["--dump-dom"]);
    assert!(dom.contains("<title>keys pressed</title>"), "the page's script failed before the test's:\n{dom}");
    assert!(dom.contains("step 2 of 4: ProfilerStep#1"), "n goes to the next step:\n{dom}");
    assert!(!dom.contains("viewBox=\"0 0 1200 "), "+ zooms");
    run(&["--screenshot=page.png"]);
    let png = std::fs::read(place.path().join("page.png")).unwrap();
    assert!(png.len() > 10_000, "a picture of {} bytes is empty", png.len());
}
