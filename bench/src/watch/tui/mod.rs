//! The full-screen view: [`Screen`] owns the terminal and gives it back, [`draw`] fills it (pure).

mod draw;
mod keys;

use std::io::{IsTerminal, Stderr, stderr};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, event};

pub use draw::draw;

use super::WatchError;
use super::live::View;
use keys::Keys;

/// Whether the terminal is ours. It is given back once, by whoever comes first: the end of the watch, or a panic.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, while it is ours. Drawn on is stderr, so that stdout stays free for the result.
#[derive(Debug)]
pub struct Screen {
    // Before the terminal: the thread must no longer read keys when it is given back.
    keys: Option<Keys>,
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// [`WatchError::Unavailable`] where stderr is none, [`WatchError::Terminal`] if it cannot be used.
    pub fn open() -> Result<Self, WatchError> {
        if !stderr().is_terminal() {
            return Err(WatchError::Unavailable(
                "--tui needs a terminal, and stderr is none; without it a line is printed every second"
                    .to_owned(),
            ));
        }
        give_back_on_panic();
        TAKEN.store(true, Ordering::SeqCst);
        let take = || {
            enable_raw_mode()?;
            execute!(stderr(), EnterAlternateScreen, cursor::Hide)?;
            // The alternate screen is empty. `clear` would ask the terminal where its cursor is, and not all answer.
            let terminal = Terminal::new(CrosstermBackend::new(stderr()))?;
            Ok(Self { keys: Some(Keys::listen()), terminal })
        };
        take().inspect_err(|_| give_back()).map_err(WatchError::Terminal)
    }

    /// Draws where the watch stands.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn draw(&mut self, view: &View<'_>) -> Result<(), WatchError> {
        self.terminal.draw(|frame| draw(frame, view))?;
        Ok(())
    }

    /// Resolves to true once the user presses q or Ctrl-C. Never does once the screen is closed.
    pub async fn asked_to_end(&mut self) -> bool {
        match &mut self.keys {
            Some(keys) => keys.asked_to_end().await,
            None => std::future::pending().await,
        }
    }

    /// Gives the terminal back.
    pub fn close(&mut self) {
        self.keys = None;
        give_back();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // First, so that the message is seen.
            give_back();
            before(panic);
        }));
    });
}

/// What cannot be given back is lost: there is nobody left to tell.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ =
            execute!(stderr(), event::DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}
