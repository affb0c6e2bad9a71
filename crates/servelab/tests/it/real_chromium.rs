//! Our pages in a real browser without a screen: scripts run without an error, the time line answers keys, figures are
//! drawn, filtered and printed, and a page asks for nothing outside. Left out where no browser was asked for.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use servelab_testkit::{Place, TINY};

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

/// Runs the browser on a file of the place; returns what it printed.
fn browse(browser: &str, place: &Place, file: &str, more: &[&str]) -> (String, String) {
    let address = format!("file://{}", place.path().join(file).display());
    let profile = format!("--user-data-dir={}", place.path().join("browser").display());
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", &profile])
        .args(["--enable-logging=stderr", "--v=0"])
        .args(more)
        .arg(&address)
        .current_dir(place.path())
        .output();
    let output =
        output.unwrap_or_else(|error| panic!("SERVELAB_REAL=chromium, and `{browser}` does not start: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{err}");
    (out, err)
}

/// Exercises the page as a reader would and writes what it saw into the title.
const READER: &str = r##"<script>
const seen = {};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  const page = globalThis.servelab;
  page.drawAll();
  const boxes = [...page.charts.entries()].filter(([, entry]) => entry.figure);
  seen.figures = page.figures.length;
  seen.drawn = boxes.filter(([box]) => box.dataset.drawn && (box.querySelector("svg path") || box.querySelector("canvas"))).length;
  seen.boxes = boxes.length;
  const [box, trade] = boxes.find(([, entry]) => entry.figure.set === "trade" && !entry.small);
  const names = () => trade.chart.getOption().series.filter((series) => series.type === "line" && series.name && series.name !== "front").length;
  seen.before = names();
  const filter = document.getElementById("filter");
  filter.value = "seqs_64"; filter.dispatchEvent(new Event("input"));
  await wait(200);
  seen.filtered = names();
  seen.hiddenRows = [...document.querySelectorAll("#results tbody tr")].filter((row) => row.hidden).length;
  filter.value = ""; filter.dispatchEvent(new Event("input"));
  await wait(200);
  seen.after = names();
  box.focus();
  box.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  seen.spoken = document.getElementById("spoken").textContent;
  seen.tip = [...box.querySelectorAll("div")].some((div) => div.textContent.includes("TPOT") || div.textContent.includes("Interactivity"));
  document.querySelectorAll("[data-set=trade] [role=tab]")[1].click();
  seen.tab = trade.figure.id;
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const light = ground();
  const theme = document.getElementById("theme");
  theme.value = "dark"; theme.dispatchEvent(new Event("change"));
  seen.isDark = ground() !== light && document.documentElement.dataset.theme === "dark";
  dispatchEvent(new Event("beforeprint"));
  seen.printsLight = ground() === light;
  dispatchEvent(new Event("afterprint"));
  const per = document.getElementById("per");
  const whole = trade.chart.getOption().series[0].data[0][1];
  per.value = "8"; per.dispatchEvent(new Event("change"));
  seen.scale = trade.chart.getOption().series[0].data[0][1] / whole;
  const header = document.querySelector("#results thead th .sort");
  header.click();
  seen.sorted = header.parentElement.getAttribute("aria-sort");
  const price = document.querySelector(".price");
  price.value = "2"; price.dispatchEvent(new Event("input"));
  seen.money = document.querySelector(".money").textContent;
  seen.outside = performance.getEntriesByType("resource").length;
  const pre = document.createElement("pre");
  pre.id = "seen"; pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
})().catch((error) => { document.title = "failed: " + error; console.error(error); });
</script></body>"##;

#[test]
fn the_report_works_in_a_browser() {
    let Some(browser) = browser() else { return };
    let place = place();
    let study = TINY.replace("concurrency: [2]", "concurrency: [1, 2, 4]");
    place.write("study.yaml", &format!("{study}repeats: {{n: 2}}\nslo: {{cell: {{success: 0.5}}}}\n"));
    place.servelab("run study.yaml --root out").run().expect(0);
    place.servelab("report study.yaml --root out --out report --figures").run().expect(0);
    let page = place.read("report/report.html");
    let index = page.rfind("</body>").unwrap();
    place.write("exercised.html", &format!("{}{READER}{}", &page[..index], &page[index + "</body>".len()..]));
    let (dom, log) = browse(&browser, &place, "exercised.html", &["--virtual-time-budget=8000", "--dump-dom"]);
    let console: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:#?}");
    let from = dom.find("<pre id=\"seen\">").unwrap_or_else(|| panic!("the reader's script did not end:\n{}", &log));
    let seen: serde_json::Value = serde_json::from_str(
        &dom[from + "<pre id=\"seen\">".len()..]
            .split("</pre>")
            .next()
            .unwrap()
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
    .unwrap();
    assert_eq!(seen["drawn"], seen["boxes"], "{seen}");
    assert!(seen["figures"].as_u64().unwrap() > 15, "{seen}");
    assert_eq!(
        (seen["before"].as_u64(), seen["filtered"].as_u64(), seen["after"].as_u64()),
        (Some(2), Some(1), Some(2)),
        "{seen}"
    );
    assert!(seen["hiddenRows"].as_u64().unwrap() >= 6, "{seen}");
    assert!(seen["spoken"].as_str().unwrap().contains("closed 1"), "{seen}");
    for fact in ["tip", "isDark", "printsLight"] {
        assert_eq!(seen[fact], true, "{fact}: {seen}");
    }
    assert_eq!(seen["tab"], "throughput_vs_tpot_mean", "{seen}");
    assert!((seen["scale"].as_f64().unwrap() - 8.0).abs() < 1e-9, "one GPU, shown per eight: {seen}");
    assert_eq!((seen["sorted"].as_str(), seen["outside"].as_u64()), (Some("ascending"), Some(0)), "{seen}");
    assert!(seen["money"].as_str().unwrap().contains("per million tokens"), "{seen}");
    browse(&browser, &place, "report/report.html", &["--screenshot=page.png", "--virtual-time-budget=4000"]);
    assert!(std::fs::read(place.path().join("page.png")).unwrap().len() > 40_000, "an empty picture");
    browse(
        &browser,
        &place,
        "report/report.html",
        &["--print-to-pdf=page.pdf", "--no-pdf-header-footer", "--virtual-time-budget=6000"],
    );
    let pdf = std::fs::read(place.path().join("page.pdf")).unwrap();
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 50_000, "{} bytes", pdf.len());
    let svgs = place.list("report/figures").into_iter().filter(|name| name.ends_with(".svg")).count();
    assert_eq!(svgs as u64, seen["figures"].as_u64().unwrap() + 1, "every figure, and the four panels in one");
}
