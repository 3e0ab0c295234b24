//! Stop strings, found in the text whatever its tokens are.

/// Watches streamed text for the first occurrence of any stop string.
///
/// Text that could be the beginning of one is held back until it is decided.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            held: String::new(),
        }
    }

    /// Takes new text; returns what may be shown and whether a stop string
    /// ended it.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(end) = found {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let undecided = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - undecided);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, now that no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `stop` without completing it.
fn overlap(text: &str, stop: &str) -> usize {
    let candidates = stop
        .char_indices()
        .map(|(at, _)| at)
        .filter(|&at| at > 0 && at <= text.len());
    candidates
        .filter(|&at| stop.get(..at).is_some_and(|start| text.ends_with(start)))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopStrings::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            let (text, stopped) = matcher.push(piece);
            shown.push_str(&text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push_str(&matcher.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_string_may_span_pieces() {
        assert_eq!(
            run(&["END"], &["one E", "N", "D two"]),
            ("one ".to_owned(), true)
        );
    }

    #[test]
    fn a_false_start_is_released() {
        assert_eq!(
            run(&["END"], &["one E", "N", "x"]),
            ("one ENx".to_owned(), false)
        );
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".to_owned(), true));
    }

    #[test]
    fn the_earliest_of_several_wins() {
        assert_eq!(
            run(&["c", "bc", "é"], &["ab", "cé"]),
            ("a".to_owned(), true)
        );
        assert_eq!(run(&["éa"], &["é", "b"]), ("éb".to_owned(), false));
    }

    #[test]
    fn empty_stop_strings_are_ignored() {
        assert_eq!(run(&[""], &["text"]), ("text".to_owned(), false));
    }
}
