//! Keys, read by a thread of its own: reading blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How often the thread looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Keys {
    pressed: UnboundedReceiver<()>,
    unwanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    pub(super) fn listen() -> Self {
        let (press, pressed) = unbounded_channel();
        let unwanted = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&unwanted);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(LOOK) {
                    Ok(false) => {}
                    Ok(true) => match event::read() {
                        Ok(Event::Key(key)) if ends(&key) => drop(press.send(())),
                        Ok(_) => {}
                        Err(_) => return,
                    },
                    // A terminal that cannot be read has no keys; Ctrl-C still comes as a signal then.
                    Err(_) => return,
                }
            }
        });
        Self { pressed, unwanted, thread: Some(thread) }
    }

    /// Resolves to true once a key is pressed that ends the watch.
    pub(super) async fn asked_to_end(&mut self) -> bool {
        match self.pressed.recv().await {
            Some(()) => true,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Raw terminals send Ctrl-C as a key.
fn ends(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let quits = match key.code {
        KeyCode::Char('q' | 'Q') => !control,
        KeyCode::Char('c' | 'C') => control,
        _ => false,
    };
    quits && key.kind != KeyEventKind::Release
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_control_c_end_it_and_nothing_else() {
        let key = |letter, modifiers| KeyEvent::new(KeyCode::Char(letter), modifiers);
        assert!(ends(&key('q', KeyModifiers::NONE)));
        assert!(ends(&key('Q', KeyModifiers::SHIFT)));
        assert!(ends(&key('c', KeyModifiers::CONTROL)));
        assert!(!ends(&key('c', KeyModifiers::NONE)));
        assert!(!ends(&key('q', KeyModifiers::CONTROL)));
        assert!(!ends(&KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE)));
    }
}
