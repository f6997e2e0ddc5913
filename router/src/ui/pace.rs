//! The times of one streamed answer, as they pass through.

use std::sync::Arc;

use tokio::time::Instant;

use crate::server::Shared;

/// Times one stream.
pub(crate) struct Pace {
    shared: Arc<Shared>,
    last: Instant,
}

impl Pace {
    /// The first bytes of an answer have come, to a request that came at `arrived`. `None` if
    /// nobody wants to know.
    pub(crate) fn begin(shared: &Arc<Shared>, arrived: Instant) -> Option<Self> {
        let ui = shared.ui.as_ref()?;
        let last = Instant::now();
        ui.first_bytes(last - arrived);
        Some(Self { shared: shared.clone(), last })
    }

    /// More bytes have come.
    pub(crate) fn bytes(&mut self, data: &[u8]) {
        // The end comes right behind the last token and is no token.
        if data.starts_with(b"data: [DONE]") {
            return;
        }
        let now = Instant::now();
        if let Some(ui) = &self.shared.ui {
            ui.further_bytes(now - self.last);
        }
        self.last = now;
    }
}
