//! A text file of the repository, and its code without comments and literals.

/// A file that rules read.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Relative to the workspace root, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl SourceFile {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    pub(super) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Written by a generator; the name says so.
    pub(super) fn is_generated(&self) -> bool {
        self.file_name().contains(".gen.")
    }

    /// Whether a person writes it as code, in any of our languages.
    pub(super) fn is_code(&self) -> bool {
        [".rs", ".h", ".hpp", ".cpp", ".py", ".sh", ".metal", ".cu"]
            .iter()
            .any(|extension| self.path.ends_with(extension))
    }
}

/// Whether rules read the file at all. Vocabulary and binary files are data.
pub(super) fn is_text(path: &str) -> bool {
    const EXTENSIONS: [&str; 14] = [
        "rs", "h", "hpp", "cpp", "metal", "cu", "py", "sh", "toml", "md", "yml", "txt", "table",
        "json",
    ];
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    (EXTENSIONS.contains(&extension) && name != "tokenizer.json") || path == ".ci/run"
}

/// Replaces comments and the insides of string and character literals of Rust
/// code by spaces. Lines stay where they are.
pub(super) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match at(i) {
            '/' if at(i + 1) == '/' => find(&chars, i, |j| at(j) == '\n'),
            '/' if at(i + 1) == '*' => block_comment_end(&chars, i),
            '"' => string_end(&chars, i),
            'r' if starts_word(&chars, i) && raw_hashes(&chars, i).is_some() => {
                raw_string_end(&chars, i)
            }
            // A lifetime has no closing quote two characters on.
            '\'' if at(i + 1) == '\\' => find(&chars, i + 3, |j| at(j) == '\'') + 1,
            '\'' if at(i + 2) == '\'' => i + 3,
            c => {
                out.push(c);
                i += 1;
                continue;
            }
        };
        for j in i..end.min(chars.len()) {
            out.push(if at(j) == '\n' { '\n' } else { ' ' });
        }
        i = end;
    }
    out
}

/// Whether the character can be part of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The numbers of the lines that contain `needle` as a whole word.
pub(super) fn lines_with_word(code: &str, needle: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let found = line.match_indices(needle).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            let after = line[start + needle.len()..].chars().next();
            !before.is_some_and(is_word)
                && (!needle.ends_with(is_word) || !after.is_some_and(is_word))
        });
        if found {
            lines.push(number + 1);
        }
    }
    lines
}

fn find(chars: &[char], from: usize, stop: impl Fn(usize) -> bool) -> usize {
    (from..chars.len())
        .find(|&i| stop(i))
        .unwrap_or(chars.len())
}

/// Block comments nest in Rust.
fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut i = start;
    while i < chars.len() {
        match chars[i..] {
            ['/', '*', ..] => {
                depth += 1;
                i += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => i += 1,
        }
    }
    i
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// Whether the `r` at `i` starts a word, or follows the `b` or `c` that does.
fn starts_word(chars: &[char], i: usize) -> bool {
    let before = |back: usize| i.checked_sub(back).is_some_and(|j| is_word(chars[j]));
    !before(1) || (matches!(chars[i - 1], 'b' | 'c') && !before(2))
}

/// The number of `#` between `r` and the quote, if a raw string starts here.
fn raw_hashes(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(start + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = raw_hashes(chars, start).unwrap_or(0);
    let from = start + hashes + 2;
    let close = find(chars, from, |i| {
        chars[i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    });
    close + 1 + hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_only_blanks_comments_and_literals_and_keeps_lines() {
        let code =
            code_only("let a = \"un\\\"safe\"; // unsafe\n/* /* unsafe */\n */ b('\"', 'x');");
        assert!(!code.contains("safe"), "{code}");
        assert_eq!(code.lines().count(), 3);
        assert!(code.contains("b("), "{code}");
    }

    #[test]
    fn code_only_blanks_raw_and_byte_strings() {
        let code = code_only("f(r#\"a \" unsafe\"#, br#\"\" unsafe\"#, b\"unsafe\"); unsafe {}");
        assert_eq!(lines_with_word(&code, "unsafe"), [1]);
        assert_eq!(code.matches("unsafe").count(), 1, "{code}");
    }

    #[test]
    fn code_only_tells_lifetimes_from_characters() {
        let code = code_only("fn f<'a>(x: &'a str) -> char { '\\'' } // done");
        assert!(code.contains("fn f<'a>(x: &'a str)"), "{code}");
        assert!(!code.contains("done"), "{code}");
    }

    #[test]
    fn words_do_not_match_inside_longer_words() {
        assert_eq!(lines_with_word("unsafe_code\nx unsafe {", "unsafe"), [2]);
        assert_eq!(lines_with_word("my_todo!()\n todo!()", "todo!"), [2]);
    }

    #[test]
    fn vocabularies_and_weights_are_not_text() {
        assert!(is_text("crates/a/src/lib.rs") && is_text(".ci/run"));
        assert!(!is_text("tests/fixtures/x/tokenizer.json") && !is_text("a/model.safetensors"));
    }
}
