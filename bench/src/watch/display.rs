//! Where a watch is seen: lines on stderr, or the whole screen.

use std::time::Instant;

use tokio::time::sleep_until;

use super::WatchError;
use super::live::View;
use super::tui::Screen;
use crate::repro::Progress;

/// Where it is seen.
#[derive(Debug)]
pub enum Display {
    /// A line every second.
    Lines(Progress),
    /// The whole screen.
    Screen(Screen),
}

impl Display {
    /// Lines on stderr.
    pub fn lines() -> Self {
        Self::Lines(Progress::lines(std::io::stderr()))
    }

    /// The whole terminal, until it is dropped.
    ///
    /// # Errors
    /// [`WatchError::Unavailable`] if there is none.
    pub fn screen() -> Result<Self, WatchError> {
        Screen::open().map(Self::Screen)
    }

    /// Shows where the watch stands.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn show(&mut self, view: &View<'_>) -> Result<(), WatchError> {
        match self {
            Self::Lines(progress) => progress.state(view.line()),
            Self::Screen(screen) => screen.draw(view)?,
        }
        Ok(())
    }

    /// Waits until `next`; true at once if the user asks to end. Without a screen that is Ctrl-C, which cancels the
    /// whole session.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub async fn asked_to_end(&mut self, next: Instant) -> Result<bool, WatchError> {
        let waiting = sleep_until(next.into());
        match self {
            Self::Lines(_) => {
                waiting.await;
                Ok(false)
            }
            Self::Screen(screen) => tokio::select! {
                asked = screen.asked_to_end() => Ok(asked),
                () = waiting => Ok(false),
            },
        }
    }

    /// Gives the terminal back.
    pub fn finish(&mut self) {
        match self {
            Self::Lines(progress) => progress.finish(),
            Self::Screen(screen) => screen.close(),
        }
    }
}
