//! Telling thoughts from answers in streamed text.

/// The marks of published models: the opening one and the closing one.
const MARKS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>", "<channel|>"),
];

/// A piece of a model's output, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReasoningText {
    /// What the model thinks.
    pub reasoning: String,
    /// What the model answers.
    pub content: String,
}

/// Splits streamed text at a pair of marks such as `<think>` and `</think>`.
///
/// Text that could be the beginning of a mark is held back until it is decided. The marks
/// themselves are left out.
///
/// ```
/// use mlx_lm::chat::ReasoningParser;
/// let mut parser = ReasoningParser::new("<think>", "</think>", false);
/// let (mut reasoning, mut content) = (String::new(), String::new());
/// for piece in ["<thi", "nk>Hm.</th", "ink>", "Yes"] {
///     let text = parser.push(piece);
///     reasoning += &text.reasoning;
///     content += &text.content;
/// }
/// assert_eq!((reasoning.as_str(), content.as_str()), ("Hm.", "Yes"));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ReasoningParser {
    open: String,
    close: String,
    inside: bool,
    held: String,
}

impl ReasoningParser {
    /// A parser for the given marks; `inside` if the prompt has opened the thought already.
    pub fn new(open: impl Into<String>, close: impl Into<String>, inside: bool) -> Self {
        Self {
            open: open.into(),
            close: close.into(),
            inside,
            held: String::new(),
        }
    }

    /// The marks that a chat template writes, and whether `prompt` ends inside a thought.
    ///
    /// `None` if the template knows no thoughts.
    pub fn detect(template: &str, prompt: &str) -> Option<Self> {
        let (open, close) = MARKS
            .into_iter()
            .find(|(_, close)| template.contains(close))?;
        // What the template writes behind the mark is part of it.
        let open = match open {
            "<|channel>" => "<|channel>thought\n",
            open => open,
        };
        let inside = match (prompt.rfind(open), prompt.rfind(close)) {
            (Some(open), Some(close)) => open > close,
            (opened, _) => opened.is_some(),
        };
        // A mark further up belongs to an earlier turn or to the user's own words.
        let inside = inside && prompt.trim_end().ends_with(open.trim_end());
        Some(Self::new(open, close, inside))
    }

    /// The two marks, which may be special tokens: a parser must be shown them.
    #[must_use]
    pub fn marks(&self) -> [&str; 2] {
        [&self.open, &self.close]
    }

    /// Whether the text is inside a thought now.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// Takes new text and returns what is decided.
    pub fn push(&mut self, text: &str) -> ReasoningText {
        self.held.push_str(text);
        let mut sorted = ReasoningText::default();
        loop {
            let mark = if self.inside { &self.close } else { &self.open };
            let found = if mark.is_empty() {
                None
            } else {
                self.held.find(mark.as_str())
            };
            let Some(at) = found else { break };
            let rest = self.held.split_off(at);
            let rest = rest
                .strip_prefix(mark.as_str())
                .unwrap_or_default()
                .to_owned();
            self.take(&mut sorted, rest);
            self.inside = !self.inside;
        }
        let mark = if self.inside { &self.close } else { &self.open };
        let keep = partial_mark(&self.held, mark);
        let rest = self.held.split_off(self.held.len() - keep);
        self.take(&mut sorted, rest);
        sorted
    }

    /// Returns what was held back.
    pub fn finish(&mut self) -> ReasoningText {
        let mut sorted = ReasoningText::default();
        self.take(&mut sorted, String::new());
        sorted
    }

    fn take(&mut self, sorted: &mut ReasoningText, rest: String) {
        let decided = std::mem::replace(&mut self.held, rest);
        let side = if self.inside {
            &mut sorted.reasoning
        } else {
            &mut sorted.content
        };
        side.push_str(&decided);
    }
}

/// Length of the longest end of `text` that a mark could begin with.
fn partial_mark(text: &str, mark: &str) -> usize {
    let ends = mark.char_indices().map(|(at, _)| at).skip(1);
    ends.filter(|&at| mark.get(..at).is_some_and(|start| text.ends_with(start)))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_cut_gives_the_same() {
        let text = "<<think>a</think></think>b<think>c<";
        let cuts: Vec<usize> = (0..=text.len()).collect();
        for &first in &cuts {
            for &second in cuts.iter().filter(|&&cut| cut >= first) {
                let mut parser = ReasoningParser::new("<think>", "</think>", false);
                let mut sorted = ReasoningText::default();
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                for part in pieces
                    .map(|piece| parser.push(piece))
                    .into_iter()
                    .chain([parser.finish()])
                {
                    sorted.reasoning += &part.reasoning;
                    sorted.content += &part.content;
                }
                assert_eq!(
                    (sorted.content.as_str(), sorted.reasoning.as_str()),
                    ("<</think>b", "ac<")
                );
            }
        }
    }

    #[test]
    fn a_thought_opened_by_the_prompt_is_noticed() {
        let template = "{% if x %}<think>{% endif %}</think>";
        assert!(
            ReasoningParser::detect(template, "a<think>\n")
                .unwrap()
                .is_inside()
        );
        assert!(
            !ReasoningParser::detect(template, "a<think>\n\n</think>\n\n")
                .unwrap()
                .is_inside()
        );
        assert!(
            !ReasoningParser::detect(template, "user: what is <think>? assistant:")
                .unwrap()
                .is_inside()
        );
        assert!(ReasoningParser::detect("plain", "a").is_none());
    }
}
