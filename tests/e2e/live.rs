//! The live page: in a real browser, before real processes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::common::{PATIENCE, Role, Up, eventually, get, post, stream};

const TCP: [&str; 4] = ["--transport", "tcp", "--time-scale", "0"];

/// A router with a live page; on `port` if that is not 0.
fn router(prefill: &Role, decode: &Role, port: &str) -> Role {
    let workers = ["--prefill", prefill.url(), "--decode", decode.url()];
    let own = ["router", "--ui", "--health-interval", "0.2", "--port", port];
    Role::start(&[&own[..], &workers].concat())
}

/// Streams completions until told to stop.
fn load(url: &str, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (url, stop) = (format!("{url}/v1/completions"), stop.clone());
    tokio::spawn(async move {
        let prompt = "live ".repeat(100);
        while !stop.load(Relaxed) {
            stream(&url, json!({"prompt": prompt, "max_tokens": 8, "stream": true})).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_lives_with_the_cluster() {
    let Some(mut page) = Chromium::start() else { return };
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let prefill = Role::start(&[&["prefill"], &TCP[..]].concat());
    let mut decode = Role::start(&[&["decode"], &TCP[..]].concat());
    let mut front = router(&prefill, &decode, "0");
    let url = front.url().to_owned();
    let stop = Arc::new(AtomicBool::new(false));
    let loading = load(&url, &stop);

    page.screen(1280, 900, "light");
    page.open(&format!("{url}/ui"));
    page.until("document.querySelector('#status')?.textContent === 'Live'");
    page.until("document.querySelectorAll('.role').length === 3");
    page.until("document.querySelector('#links tbody tr')?.innerText.includes('prefill-0')");
    for chart in ["requests", "tokens", "ttft", "itl", "kv"] {
        let value = format!("document.querySelector('#chart-{chart} .value').textContent");
        page.until(&format!("/[1-9]/.test({value})"));
    }
    page.until(
        "[...document.querySelectorAll('.role')].every((r) => r.innerText.includes('● up'))",
    );

    // What nobody watches is said to be so; then somebody reports.
    page.until("document.querySelector('#chart-memory').innerText.includes('nobody watches')");
    let (status, answer) = post(&format!("{url}/ui/memory"), memory("decode-0")).await;
    assert_eq!(status, 200, "{answer}");
    page.until("document.querySelector('[data-name=decode-0]').innerText.includes('✕ leak')");
    page.until("document.querySelector('#events').innerText.includes('144.0 B per unmap')");

    // A click shows one process, Escape goes back to it.
    page.click("[data-name=decode-0]");
    page.until("document.activeElement.id === 'details-title'");
    assert_eq!(page.eval("document.querySelector('#details-title').textContent"), "decode-0");
    let facts = page.eval("document.querySelector('#details').innerText");
    let facts = facts.as_str().unwrap();
    assert!(facts.contains("Blocks verified") && facts.contains("LEAK. 144.0 B"), "{facts}");
    page.screenshot(&shots.join("live-light.png"));
    page.press("Escape", 27);
    page.until("document.querySelector('#details').hidden");
    assert_eq!(page.eval("document.activeElement.dataset.name"), "decode-0");

    // The keyboard comes everywhere, from top to bottom, and everything has a name.
    page.eval("document.activeElement.blur(); window.scrollTo(0, 0)");
    page.eval("document.querySelector('.skip').focus()");
    let mut order = vec![];
    for _ in 0..11 {
        page.press("Tab", 9);
        let at = "(() => { const e = document.activeElement; return e.id || e.dataset.name; })()";
        order.push(page.eval(at).as_str().unwrap().to_owned());
    }
    let charts = ["requests", "tokens", "ttft", "itl", "kv", "pinned", "memory"];
    let mut expected = vec!["pause".to_owned()];
    expected.extend(charts.map(|chart| format!("chart-{chart}")));
    expected.extend(["router", "prefill-0", "decode-0"].map(str::to_owned));
    assert_eq!(order, expected);
    let unnamed = "[...document.querySelectorAll('button, [tabindex=\"0\"], section')].filter((e) => \
                   !(e.innerText.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby'))).length";
    assert_eq!(page.eval(unnamed), 0);
    page.eval("document.querySelector('#chart-requests').focus()");
    page.until(
        "document.querySelector('#chart-requests').getAttribute('aria-label')?.includes('now')",
    );
    page.press("ArrowLeft", 37);
    page.until("document.querySelector('#moment').textContent.startsWith('Reading')");
    page.press("Escape", 27);
    page.until("!document.querySelector('#moment').textContent.startsWith('Reading')");

    // Every width, dark and light; nothing sticks out.
    for (width, scheme) in [(320, "dark"), (320, "light"), (768, "dark"), (1280, "dark")] {
        page.screen(width, 800, scheme);
        page.until(&format!("innerWidth === {width}"));
        let wide = "[...document.body.querySelectorAll('*')].filter((e) => !e.closest('.skip') && \
                    e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80))";
        // The browser tells the page of its new width a frame later; what it draws by hand follows then.
        page.until(&format!("({wide}).length === 0"));
        assert!(
            page.eval("document.documentElement.scrollWidth").as_u64().unwrap() <= width.into()
        );
        let paper = page.eval("getComputedStyle(document.body).backgroundColor");
        assert_eq!(paper == "rgb(255, 255, 255)", scheme == "light", "{paper}");
        page.screenshot(&shots.join(format!("live-{width}-{scheme}.png")));
    }

    // Pause holds still, and goes on without a gap.
    page.screen(1280, 900, "light");
    page.click("#pause");
    page.until("document.querySelector('#status').textContent === 'Paused'");
    page.click("#pause");
    page.until("document.querySelector('#status').textContent === 'Live'");
    assert_eq!(
        page.eval("model.points.every((p, at, all) => at === 0 || p.seq === all[at - 1].seq + 1)"),
        true
    );

    // A worker that dies is shown, and the page lives.
    stop.store(true, Relaxed);
    loading.await.unwrap();
    decode.kill();
    page.until("document.querySelector('[data-name=decode-0]').innerText.includes('✕ down')");
    page.until("document.querySelector('#events').innerText.includes('lost')");
    page.screenshot(&shots.join("live-lost.png"));
    assert_eq!(page.console, [""; 0], "nothing is refused, nothing fails");

    // So does one that the router leaves, and it knows another router from the one before.
    let port = url.rsplit(':').next().unwrap().to_owned();
    front.kill();
    page.until("document.querySelector('#status').textContent === 'Disconnected'");
    page.until("document.querySelector('#notice').innerText.includes('does not answer')");
    let decode = Role::start(&[&["decode"], &TCP[..]].concat());
    let _front = router(&prefill, &decode, &port);
    page.until("document.querySelector('#status').textContent === 'Live'");
    page.until("document.querySelector('#notice').innerText.includes('was restarted')");
    page.until("document.querySelector('[data-name=decode-0]').innerText.includes('● up')");
    // Requests that fail while there is no router are the browser's to tell; a script is to break
    // over nothing.
    let broken = page.console.iter().filter(|line| !line.contains("ERR_CONNECTION"));
    assert_eq!(broken.collect::<Vec<_>>(), [""; 0]);
}

/// A report of a leak.
fn memory(process: &str) -> Value {
    let slope = json!({"unit": "unmap", "bytes_per_unit": 144.0, "low": 143.5, "high": 144.5, "bytes_per_s": 1e6});
    json!({"processes": [{"process": process, "rss_bytes": 145_000_000, "held_bytes": 90_000_000, "fds": 30,
           "threads": 9, "slope": slope, "verdict": "leak", "says": "LEAK. 144.0 B per unmap."}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_watches_the_memory_of_its_roles_and_outlives_a_worker() {
    let mut up = Up::start(&["--ui", "--churn-rate", "200"]);
    let addresses = up.addresses.clone();
    let page = addresses["ui"].as_str().unwrap();
    let state = format!("{page}/state");
    let watched = eventually("the memory of all roles is known", async || {
        let (_, state) = get(&state).await;
        let roles = state["roles"].as_array()?.clone();
        (roles.len() == 3 && roles.iter().all(|role| role["memory"]["rss_bytes"].is_u64()))
            .then_some(roles)
    });
    for role in watched.await {
        let memory = &role["memory"];
        assert!(memory["rss_bytes"].as_u64().unwrap() > 1_000_000, "{role}");
        assert_eq!(memory["process"], role["name"]);
    }
    eventually("there is enough for a slope", async || {
        let (_, state) = get(&state).await;
        (state["roles"][2]["memory"]["slope"]["unit"] == "unmap").then_some(())
    })
    .await;

    let pid = addresses["roles"][1]["pid"].as_u64().unwrap().to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    eventually("its loss is an event", async || {
        let (_, state) = get(&state).await;
        let events = state["events"].as_array()?;
        let lost =
            |e: &Value| e["role"] == "decode-0" && e["text"].as_str().unwrap().starts_with("lost");
        events.iter().any(lost).then_some(())
    })
    .await;
    assert!(up.child.try_wait().unwrap().is_none(), "it goes on");

    let pid = up.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = async || up.child.try_wait().unwrap();
    let status = tokio::time::timeout(2 * PATIENCE, eventually("it ends in order", ended)).await;
    assert_eq!(status.unwrap().code(), Some(0));
}
