//! Drafts from the text itself.

use super::Draft;

/// What followed the last tokens where they occurred before, latest first.
pub(super) fn looked_up(
    tokens: &[u32],
    longest: usize,
    shortest: usize,
    count: usize,
) -> Vec<Draft> {
    for size in (shortest..=longest).rev() {
        let Some(start) = tokens.len().checked_sub(size) else {
            continue;
        };
        let end = tokens.get(start..).unwrap_or_default();
        let earlier = tokens.get(..tokens.len() - 1).unwrap_or_default();
        let found = earlier.windows(size).rposition(|window| window == end);
        if let Some(at) = found {
            let next = tokens.get(at + size..).unwrap_or_default();
            let certain = |&token| Draft {
                token,
                distribution: None,
            };
            return next.iter().take(count).map(certain).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::looked_up;

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let found = |tokens: &[u32]| -> Vec<u32> {
            let drafts = looked_up(tokens, 3, 1, 2);
            drafts.iter().map(|draft| draft.token).collect()
        };
        assert_eq!(found(&[1, 2, 3, 4, 9, 2, 3, 8, 7, 1, 2, 3]), [4, 9]);
        assert_eq!(found(&[5, 1, 5, 2, 5]), [2, 5]);
        assert_eq!(found(&[7, 7]), [7]);
        assert!(found(&[1, 2, 3]).is_empty());
        assert!(found(&[]).is_empty());
    }
}
