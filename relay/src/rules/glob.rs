//! Text with stars.

use std::borrow::Cow;

/// A pattern in which `*` stands for any text, none included. Everything else is literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextGlob {
    /// The text between the stars: one piece without a star, else the first and the last are anchored.
    pieces: Box<[Box<str>]>,
}

impl std::fmt::Display for TextGlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.pieces.join("*"))
    }
}

impl TextGlob {
    /// Compiles a pattern.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self { pieces: pattern.split('*').map(Into::into).collect() }
    }

    /// From the text between the stars, which may itself hold stars.
    pub(super) fn of_pieces(pieces: Vec<Box<str>>) -> Self {
        Self { pieces: pieces.into() }
    }

    /// The text, if the pattern has no star.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &*self.pieces {
            [text] => Some(text),
            _ => None,
        }
    }

    /// Whether the text meets the pattern. Linear in the text for each piece: the leftmost place of a piece is as good as any.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (first, middle, last) = match &*self.pieces {
            [first, middle @ .., last] => (first, middle, last),
            [only] => return **only == *text,
            [] => return text.is_empty(),
        };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for piece in middle {
            let Some(at) = rest.find(&**piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(&**last)
    }

    /// The pattern over folded text.
    pub(super) fn folded(&self) -> Self {
        Self { pieces: self.pieces.iter().map(|piece| fold(piece).into()).collect() }
    }

    /// Whether some text meets both patterns.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        match (self.literal(), other.literal()) {
            (Some(text), _) => other.matches(text),
            (_, Some(text)) => self.matches(text),
            // Between its ends a text has room for all pieces of both, so only the ends can differ.
            (None, None) => {
                let ends = |glob: &Self| (glob.pieces.first().cloned(), glob.pieces.last().cloned());
                match (ends(self), ends(other)) {
                    ((Some(a), Some(y)), (Some(b), Some(z))) => {
                        (a.starts_with(&*b) || b.starts_with(&*a)) && (y.ends_with(&*z) || z.ends_with(&*y))
                    }
                    _ => false,
                }
            }
        }
    }
}

/// Text as backends see it that take upper and lower case for the same: Unicode simple case folding, and both odd `i` as `i`.
#[must_use]
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(fold_char).collect())
}

fn fold_char(character: char) -> char {
    fn single(mut mapped: impl Iterator<Item = char>) -> Option<char> {
        mapped.next().filter(|_| mapped.next().is_none())
    }
    match character {
        'A'..='Z' => character.to_ascii_lowercase(),
        '\0'..='\x7f' => character,
        '\u{130}' => 'i',
        _ => {
            let upper = single(character.to_uppercase()).unwrap_or(character);
            single(upper.to_lowercase()).unwrap_or(upper)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, meets) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "x", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "ba", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(TextGlob::new(pattern).matches(text), meets, "{pattern} {text}");
        }
        assert_eq!(fold("OR\u{212a}ſ"), "orks");
    }

    #[test]
    fn patterns_that_share_a_text_are_known() {
        for (a, b, meet) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("*a", "*b", false),
            ("a*", "ab", true),
            ("ab*z", "a*yz", true),
            ("*x*", "a*b", true),
        ] {
            assert_eq!(TextGlob::new(a).can_meet(&TextGlob::new(b)), meet, "{a} {b}");
            assert_eq!(TextGlob::new(b).can_meet(&TextGlob::new(a)), meet, "{b} {a}");
        }
    }
}
