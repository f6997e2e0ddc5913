//! Chromium without a window: loads a page and gives back what became of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A Chromium.
pub(crate) struct Browser {
    program: PathBuf,
}

/// A page after it has loaded.
pub(crate) struct Visit {
    /// The document as HTML.
    pub(crate) dom: String,
    /// What was logged to the console: errors of scripts and styles, refused requests.
    pub(crate) console: Vec<String>,
}

/// Loading takes a second; a browser that hangs must not hang the tests with it.
const PATIENCE: Duration = Duration::from_secs(120);

impl Browser {
    /// The one that is installed; says that tests are skipped if none is.
    pub(crate) fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
        let mut programs =
            std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
        let found = programs.find(|program| program.is_file());
        if found.is_none() {
            eprintln!("skipped: no Chromium is installed; scripts/deps test installs it");
        }
        found.map(|program| Self { program })
    }

    /// Loads the file `page`. Files of its directory may look into each other.
    pub(crate) fn visit(&self, page: &Path) -> Visit {
        let scratch = tempfile::tempdir().unwrap();
        let file = |name: &str| scratch.path().join(name);
        let mut chromium = Command::new(&self.program)
            .args(["--headless=new", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"])
            // The sandbox needs rights that containers do not give; the page is our own.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--allow-file-access-from-files"])
            .args(["--no-first-run", "--disable-background-networking", "--v=0"])
            .arg(format!("--user-data-dir={}", file("profile").display()))
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null())
            .stdout(File::create(file("dom")).unwrap())
            .stderr(File::create(file("log")).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            match chromium.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > PATIENCE => {
                    chromium.kill().unwrap();
                    break chromium.wait().unwrap();
                }
                None => sleep(Duration::from_millis(20)),
            }
        };
        let text =
            |name: &str| String::from_utf8_lossy(&fs::read(file(name)).unwrap()).into_owned();
        let log = text("log");
        assert!(
            status.success(),
            "{} of {}: {status}\n{log}",
            self.program.display(),
            page.display()
        );
        let console = log.lines().filter(|line| line.contains("CONSOLE"));
        Visit { dom: text("dom"), console: console.map(str::to_owned).collect() }
    }
}
