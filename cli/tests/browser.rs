//! The report as a reader sees it: opened in headless Chromium, wide and narrow, light and dark.
//!
//! Skipped, visibly, where there is no Chromium; with `KERNELET_REQUIRE_BROWSER` set that is a
//! failure. `KERNELET_REPORT` names a report to look at instead of one made here, and
//! `KERNELET_SCREENSHOTS` a folder for pictures of it.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

/// What is asked of the page: its width, and what there is on it.
const LOOK: &str = "(() => {
    const size = (element) => {
        const box = element.getBoundingClientRect();
        return [box.width, box.height];
    };
    const all = (selector) => [...document.querySelectorAll(selector)];
    return {
        width: window.innerWidth,
        scrolls: document.documentElement.scrollWidth,
        paper: getComputedStyle(document.body).backgroundColor,
        figures: all('figure').map((figure) => ({
            id: figure.id,
            size: size(figure.querySelector('svg, img')),
            // What is drawn in the colours of data, besides paper, axes and grid.
            marks: [...figure.querySelectorAll('polyline, circle, rect')]
                .flatMap((mark) => [mark.getAttribute('stroke'), mark.getAttribute('fill')])
                .filter((color) => ['#0072B2', '#D55E00', '#009E73'].includes(color)).length,
            picture: figure.querySelector('img') !== null,
            loaded: [...figure.querySelectorAll('img')].every((img) => img.naturalWidth > 0),
        })),
        svg_paper: all('figure svg > rect').map((rect) => getComputedStyle(rect).fill)[0],
        tables: all('table').map((table) => ({
            rows: table.querySelectorAll('tbody tr').length,
            empty: [...table.querySelectorAll('td:not(:first-child)')]
                .filter((cell) => cell.textContent.trim() === '').length,
            size: size(table),
            numbers: /[0-9]/.test([...table.querySelectorAll('td')].map((td) => td.textContent)),
        })),
        broken: all('a[href^=\"#\"]')
            .map((link) => link.getAttribute('href').slice(1))
            .filter((id) => document.getElementById(id) === null),
    };
})()";

/// Chromium, spoken to in its DevTools protocol: JSON behind a zero byte each, on two pipes.
struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What has been sent and not asked for.
    events: Vec<Value>,
    calls: u64,
    session: Option<String>,
    /// The browser's own folder.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no Chromium.
    fn start() -> Option<Self> {
        let there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
        let Some(program) =
            ["chromium", "chromium-browser", "google-chrome"].into_iter().find(there)
        else {
            assert!(env::var_os("KERNELET_REQUIRE_BROWSER").is_none(), "there is no Chromium");
            println!("SKIPPED: there is no Chromium to open the report in");
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        // The browser reads from descriptor 3 and writes to 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 >/dev/null 2>/dev/null", "sh", program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-quic", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell starts");
        let to = process.stdin.take().expect("a pipe");
        let from = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut browser = Self {
            process,
            to,
            from,
            events: Vec::new(),
            calls: 0,
            session: None,
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).expect("the browser can be read from");
        assert_eq!(message.pop(), Some(0), "the browser has gone");
        serde_json::from_slice(&message).expect("the browser speaks JSON")
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .expect("the browser can be written to");
        loop {
            let mut message = self.read();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    fn wait_for(&mut self, method: &str) {
        while !self.events.iter().any(|event| event["method"] == method) {
            let message = self.read();
            self.events.push(message);
        }
    }

    /// Opens a page at a width and returns what [`LOOK`] finds on it.
    fn open(&mut self, page: &Path, width: u32, colors: &str) -> Value {
        self.events.clear();
        let phone = width < 600;
        let size = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{ "name": "prefers-color-scheme", "value": colors }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        self.call("Page.navigate", json!({ "url": format!("file://{}", page.display()) }));
        self.wait_for("Page.loadEventFired");
        let look = json!({ "expression": LOOK, "returnByValue": true });
        let seen = self.call("Runtime.evaluate", look)["result"]["value"].take();
        if let Some(folder) = env::var_os("KERNELET_SCREENSHOTS") {
            let all = json!({ "captureBeyondViewport": true });
            let picture = self.call("Page.captureScreenshot", all);
            let picture = BASE64_STANDARD.decode(picture["data"].as_str().expect("a picture"));
            let path = Path::new(&folder).join(format!("report-{width}-{colors}.png"));
            fs::write(path, picture.expect("base64")).expect("the picture can be written");
        }
        seen
    }

    /// What the page has complained about, and what it has asked for from elsewhere.
    fn complaints(&self) -> Vec<&Value> {
        let bad = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !url.starts_with("file://") && !url.starts_with("data:")
            }
            _ => false,
        };
        self.events.iter().filter(bad).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_report_is_whole_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let folder = common::folder_with_data(400);
    let report = env::var_os("KERNELET_REPORT").map(PathBuf::from).unwrap_or_else(|| {
        let line = "reproduce --quick --data data.npz --out out";
        common::assert_success(&common::run(folder.path(), line));
        folder.path().join("out/report.html")
    });
    let report = report.canonicalize().expect("there is a report");
    let json = fs::read(report.with_extension("json")).expect("the report's JSON");
    let json: Value = serde_json::from_slice(&json).expect("it is JSON");
    let expected: Vec<_> = json["chapters"]
        .as_array()
        .expect("chapters")
        .iter()
        .flat_map(|chapter| chapter["figures"].as_array().expect("figures"))
        .map(|figure| figure["name"].as_str().expect("a name"))
        .collect();
    for number in (6..=8).chain(10..=15) {
        let name = format!("figure-{number}");
        assert!(expected.contains(&name.as_str()), "{name} is not in {expected:?}");
    }

    for (width, colors) in [(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")] {
        let seen = browser.open(&report, width, colors);
        let at = format!("at {width} pixels, {colors}");
        assert_eq!(browser.complaints(), Vec::<&Value>::new(), "complaints {at}");
        assert_eq!(seen["width"], width, "the width {at}");
        let scrolls = seen["scrolls"].as_f64().expect("a number");
        assert!(scrolls <= f64::from(width), "the page is {scrolls} pixels wide {at}");

        let figures = seen["figures"].as_array().expect("figures");
        let names: Vec<_> = figures.iter().map(|figure| figure["id"].as_str()).collect();
        let wanted: Vec<_> = expected.iter().copied().map(Some).collect();
        assert_eq!(names, wanted, "the figures {at}");
        for figure in figures {
            let side = |i: usize| figure["size"][i].as_f64().expect("a number");
            let picture = figure["picture"] == true;
            assert!(side(0) > 200.0 && side(1) > 100.0, "{figure} is too small {at}");
            assert!(side(0) <= f64::from(width), "{figure} is too wide {at}");
            assert!(picture || figure["marks"].as_u64() > Some(0), "{figure} is empty {at}");
            assert_eq!(figure["loaded"], true, "{figure} is not there {at}");
        }
        let tables = seen["tables"].as_array().expect("tables");
        assert!(tables.len() >= 14, "{} tables {at}", tables.len());
        for table in tables {
            assert!(table["rows"].as_u64() > Some(0), "a table without rows {at}: {table}");
            assert_eq!(table["empty"], 0, "empty cells {at}: {table}");
            assert_eq!(table["numbers"], true, "a table without a number {at}: {table}");
        }
        assert_eq!(seen["broken"], json!([]), "links that lead nowhere {at}");
        let dark = seen["paper"] != "rgb(255, 255, 255)";
        assert_eq!(dark, colors == "dark", "the paper is {} {at}", seen["paper"]);
        assert_eq!(seen["paper"], seen["svg_paper"], "the figures' paper {at}");
    }
}
