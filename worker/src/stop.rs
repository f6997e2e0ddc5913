//! Stop strings: finds them in text that comes token by token.

/// Watches a growing text for stop strings and holds back what may become one.
#[derive(Debug, Clone)]
pub struct StopScanner {
    stops: Vec<String>,
    keep_stop: bool,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Text that may be shown now.
    pub text: String,
    /// The stop string that was met; the text ends here.
    pub stop: Option<String>,
}

impl StopScanner {
    /// Scans for these strings; empty ones are ignored. `keep_stop` leaves the string in the text.
    pub fn new(stops: Vec<String>, keep_stop: bool) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        Self { stops, keep_stop, held: String::new() }
    }

    /// Takes new text and gives back what is certain to be shown.
    pub fn push(&mut self, text: &str) -> Scanned {
        if self.stops.is_empty() {
            return Scanned { text: text.to_owned(), stop: None };
        }
        self.held.push_str(text);
        let hit = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at, stop)))
            .min_by_key(|(at, _)| *at);
        if let Some((at, stop)) = hit {
            let stop = stop.clone();
            let end = if self.keep_stop { at + stop.len() } else { at };
            self.held.truncate(end);
            return Scanned { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let keep_from = self.possible_start();
        let rest = self.held.split_off(keep_from);
        Scanned { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// The text held back, when no more will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the earliest suffix starts that is the beginning of a stop string.
    fn possible_start(&self) -> usize {
        let begins = |at: &usize| {
            let tail = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(stops: &[&str], keep: bool, pieces: &[&str]) -> (String, Option<String>) {
        let mut scanner = StopScanner::new(stops.iter().map(|s| (*s).to_owned()).collect(), keep);
        let mut shown = String::new();
        for piece in pieces {
            let scanned = scanner.push(piece);
            shown.push_str(&scanned.text);
            if scanned.stop.is_some() {
                return (shown, scanned.stop);
            }
        }
        shown.push_str(&scanner.finish());
        (shown, None)
    }

    #[test]
    fn a_stop_across_pieces_is_found_and_cut() {
        assert_eq!(
            scan(&["END"], false, &["abcE", "N", "Dxyz"]),
            ("abc".into(), Some("END".into()))
        );
        assert_eq!(scan(&["END"], true, &["abcE", "NDx"]), ("abcEND".into(), Some("END".into())));
    }

    #[test]
    fn a_false_start_is_shown_after_all() {
        assert_eq!(scan(&["END"], false, &["aE", "Nx"]), ("aENx".into(), None));
        assert_eq!(scan(&["END"], false, &["aEN"]), ("aEN".into(), None));
    }

    #[test]
    fn the_first_of_several_wins() {
        assert_eq!(scan(&["cd", "b"], false, &["abcd"]), ("a".into(), Some("b".into())));
    }

    #[test]
    fn text_of_many_bytes_is_not_split() {
        assert_eq!(scan(&["é!"], false, &["aé", "é!"]), ("aé".into(), Some("é!".into())));
    }

    proptest! {
        #[test]
        fn cutting_equals_searching_the_whole(
            text in "[ab]{0,24}", stop in "[ab]{1,4}", cut in 1_usize..5,
        ) {
            let pieces: Vec<String> =
                text.as_bytes().chunks(cut).map(|c| String::from_utf8_lossy(c).into()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, found) = scan(&[&stop], false, &pieces);
            let whole = text.find(&stop);
            prop_assert_eq!(shown, &text[..whole.unwrap_or(text.len())]);
            prop_assert_eq!(found.is_some(), whole.is_some());
        }
    }
}
