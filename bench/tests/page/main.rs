//! The page of a run in a real browser, and on screens of every width. The run is one of fake
//! roles: real processes with real memory, only the serving is pretended.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod browser;
mod made;

use std::fs;
use std::path::Path;

use browser::Browser;
use pdlab_bench::page::{self, Document};
use serde::Deserialize;

/// What a frame of the bench that pages are put on says of a page.
#[derive(Debug, Deserialize)]
struct Measured {
    page: String,
    width: u32,
    /// How far the page reaches beyond its width, pixels.
    beyond: f64,
    /// Elements that do.
    wide: Vec<String>,
    /// Drawings that are shown.
    drawings: usize,
    /// Texts of drawings that stick out of them.
    cut: Vec<String>,
    /// What the page asked the network for.
    requests: Vec<String>,
}

/// Puts pages into frames of several widths and measures them there.
const BENCH: &str = r#"<!DOCTYPE html><body><script>
const pages = PAGES, widths = [360, 375, 768, 1280];
for (const page of pages) for (const width of widths) {
  const frame = document.createElement("iframe");
  Object.assign(frame, { src: page, width, height: 800 });
  document.body.append(frame);
}
const measure = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const shown = [...page.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0);
  const name = (element) => element.tagName + "." + element.getAttribute("class") + ": " + element.textContent.slice(0, 40);
  const inside = (text) => {
    const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
    return box.x >= -1 && box.x + box.width <= view.width + 1 && box.y >= -1 && box.y + box.height <= view.height + 1;
  };
  return {
    page: frame.getAttribute("src"), width: Number(frame.width),
    beyond: root.scrollWidth - root.clientWidth,
    wide: [...page.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1).map(name),
    drawings: shown.length,
    cut: shown.flatMap((svg) => [...svg.querySelectorAll("text")]).filter((text) => !inside(text)).map(name),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
  };
};
onload = () => {
  const out = document.createElement("pre");
  const json = JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
  out.textContent = json.replace(/[<>&]/g, (c) => "\\u00" + c.charCodeAt(0).toString(16));
  out.id = "measured";
  document.body.append(out);
};
</script></body>"#;

/// Measures the files `pages` of `dir` at all widths.
fn measure(browser: &Browser, dir: &Path, pages: &[&str]) -> Vec<Measured> {
    let bench = dir.join("bench.html");
    fs::write(&bench, BENCH.replace("PAGES", &serde_json::to_string(pages).unwrap())).unwrap();
    let dom = browser.visit(&bench).dom;
    let start = dom.find("<pre id=\"measured\">").unwrap_or_else(|| panic!("{dom}")) + 19;
    let json = &dom[start..start + dom[start..].find('<').unwrap()];
    serde_json::from_str(json).unwrap()
}

/// The text of a document: what is between its tags.
fn text(dom: &str) -> String {
    let body = &dom[dom.find("<body").unwrap_or(0)..];
    body.split('<').skip(1).filter_map(|part| part.split_once('>')).map(|part| part.1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_reads_in_a_real_browser_at_every_width() {
    let Some(browser) = Browser::find() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let outcome = made::run(&run).await;
    let stacks = made::stacks();
    fs::write(run.join("stacks.json"), serde_json::to_vec(&stacks).unwrap()).unwrap();
    let document = page::load(&run).unwrap();
    assert_eq!(document.notes(), [""; 0]);
    fs::write(scratch.path().join("run.html"), document.render()).unwrap();
    let two = page::load_two(&run, &run).unwrap();
    fs::write(scratch.path().join("two.html"), two.render()).unwrap();
    fs::remove_file(run.join("result.json")).unwrap();
    fs::write(scratch.path().join("cut.html"), page::load(&run).unwrap().render()).unwrap();
    fs::write(scratch.path().join("zoo.html"), Document::Zoo(made::zoo()).render()).unwrap();
    let matrix = Document::Matrix(Box::new(made::matrix()));
    fs::write(scratch.path().join("matrix.html"), matrix.render()).unwrap();

    let visit = browser.visit(&scratch.path().join("run.html"));
    assert_eq!(visit.console, [""; 0], "no errors, and nothing refused");
    let seen = text(&visit.dom);
    let told = outcome.text.lines().next().unwrap().trim_start_matches("verdict").trim();
    assert!(told.starts_with("LEAK. 1") && seen.contains(told), "{told} is not in {seen}");
    for words in [
        "Who holds it",
        "decode-0 (judged)",
        "FAKE_CURE=1",
        "Failed: decode-0 ended",
        "Where it comes from",
        "grow_1 (libucs.so.0)",
    ] {
        assert!(seen.contains(words), "{words} is not in {seen}");
    }

    let visit = browser.visit(&scratch.path().join("two.html"));
    assert_eq!(visit.console, [""; 0], "no errors, and nothing refused");

    let pages = ["run.html", "cut.html", "zoo.html", "matrix.html", "two.html"];
    let measured = measure(&browser, scratch.path(), &pages);
    assert_eq!(measured.len(), 20);
    for page in &measured {
        assert!(page.beyond <= 0.0 && page.wide.is_empty(), "scrolls sideways: {page:?}");
        assert!(page.cut.is_empty(), "text is cut off: {page:?}");
        assert!(page.requests.is_empty(), "needs a network: {page:?}");
    }
    // The main plot, the owners, the flame graph, three processes; and without a cure and with the one that ran.
    let drawings = |name: &str| -> Vec<usize> {
        measured.iter().filter(|m| m.page == name).map(|m| m.drawings).collect()
    };
    assert_eq!(drawings("run.html"), [8; 4]);
    assert_eq!(drawings("cut.html"), [6; 4]);
    // The difference, and each run alone.
    assert_eq!(drawings("two.html"), [3; 4]);
}

#[test]
fn the_browser_would_tell_what_is_wrong() {
    let Some(browser) = Browser::find() else { return };
    let scratch = tempfile::tempdir().unwrap();
    // Nobody answers there; that it was asked is enough.
    let broken = r#"<!DOCTYPE html><meta name="viewport" content="width=device-width">
        <img src="http://127.0.0.1:9999/missing.png"><div style="width: 900px">wide</div>
        <svg viewBox="0 0 100 20" width="100"><text x="90" y="15">sticks out</text></svg>
        <script>nonsense()</script>"#;
    fs::write(scratch.path().join("broken.html"), broken).unwrap();
    let visit = browser.visit(&scratch.path().join("broken.html"));
    assert!(visit.console.iter().any(|line| line.contains("nonsense")), "{:?}", visit.console);
    let measured = measure(&browser, scratch.path(), &["broken.html"]);
    let phone = measured.iter().find(|page| page.width == 360).unwrap();
    assert!(phone.beyond > 500.0 && phone.wide[0].contains("wide"), "{phone:?}");
    assert!(phone.cut[0].contains("sticks out"), "{phone:?}");
    assert!(phone.requests[0].ends_with("missing.png"), "{phone:?}");
    assert_eq!(phone.drawings, 1);
}
