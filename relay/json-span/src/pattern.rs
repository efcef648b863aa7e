//! Regular expressions of RFC 9485 (I-Regexp), checked and rewritten for the `regex` crate, which runs in linear time.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// Deepest nesting of groups.
const DEPTH: usize = 32;

/// Compiles a pattern; `whole` makes it match only whole texts. `None` when it is no I-Regexp.
///
/// `^` and `$` outside a class are anchors, as in the engines that RFC 9485, section 5, maps to.
pub(crate) fn compile(pattern: &str, whole: bool) -> Option<regex::Regex> {
    let mut reader = Reader { rest: pattern.chars().peekable(), out: String::new() };
    reader.alternatives(0)?;
    if reader.rest.next().is_some() {
        return None;
    }
    let written = if whole { format!("^(?:{})$", reader.out) } else { reader.out };
    regex::Regex::new(&written).ok()
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

impl Reader<'_> {
    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest.peek() == Some(&wanted);
        if found {
            self.rest.next();
        }
        found
    }

    /// Writes a character that stands for itself.
    fn literal(&mut self, character: char) {
        if character.is_ascii_alphanumeric() {
            self.out.push(character);
        } else {
            let _ = write!(self.out, "\\x{{{:x}}}", u32::from(character));
        }
    }

    fn alternatives(&mut self, depth: usize) -> Option<()> {
        loop {
            while let Some(&next) = self.rest.peek() {
                if next == '|' || next == ')' {
                    break;
                }
                self.atom(depth)?;
                self.quantifier()?;
            }
            if !self.take('|') {
                return Some(());
            }
            self.out.push('|');
        }
    }

    fn atom(&mut self, depth: usize) -> Option<()> {
        match self.rest.next()? {
            '(' if depth < DEPTH => {
                self.out.push_str("(?:");
                self.alternatives(depth + 1)?;
                self.take(')').then(|| self.out.push(')'))
            }
            '.' => {
                self.out.push_str("[^\\n\\r]");
                Some(())
            }
            '[' => self.class(),
            '\\' => match self.rest.next()? {
                letter @ ('p' | 'P') => self.category(letter),
                escaped => {
                    let character = single_escape(escaped)?;
                    self.literal(character);
                    Some(())
                }
            },
            anchor @ ('^' | '$') => {
                self.out.push(anchor);
                Some(())
            }
            '(' | ')' | '*' | '+' | '?' | ']' | '{' | '|' | '}' => None,
            character => {
                self.literal(character);
                Some(())
            }
        }
    }

    fn quantifier(&mut self) -> Option<()> {
        match self.rest.peek() {
            Some(&sign @ ('*' | '+' | '?')) => {
                self.rest.next();
                self.out.push(sign);
            }
            Some('{') => {
                self.rest.next();
                self.out.push('{');
                self.digits()?;
                if self.take(',') {
                    self.out.push(',');
                    if self.rest.peek().is_some_and(char::is_ascii_digit) {
                        self.digits()?;
                    }
                }
                if !self.take('}') {
                    return None;
                }
                self.out.push('}');
            }
            _ => {}
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let before = self.out.len();
        while let Some(&digit) = self.rest.peek().filter(|digit| digit.is_ascii_digit()) {
            self.rest.next();
            self.out.push(digit);
        }
        (self.out.len() > before).then_some(())
    }

    /// `\p{Lu}`: only the general categories, by their one- or two-letter names.
    fn category(&mut self, letter: char) -> Option<()> {
        if !self.take('{') {
            return None;
        }
        let mut name = String::new();
        loop {
            match self.rest.next()? {
                '}' => break,
                part => name.push(part),
            }
        }
        const NAMES: &str =
            " L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl Zp Zs C Cc Cf Cn Co ";
        if name.contains(' ') || !NAMES.contains(&format!(" {name} ")) {
            return None;
        }
        let _ = write!(self.out, "\\{letter}{{{name}}}");
        Some(())
    }

    fn class(&mut self) -> Option<()> {
        self.out.push('[');
        if self.take('^') {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.take('-') {
                // A hyphen stands for itself first or last only.
                if !first && self.rest.peek() != Some(&']') {
                    return None;
                }
                self.literal('-');
            } else if self.take(']') {
                self.out.push(']');
                return (!first).then_some(());
            } else if let Some(low) = self.class_character()? {
                self.literal(low);
                if self.rest.peek() == Some(&'-') {
                    let mut ahead = self.rest.clone();
                    ahead.next();
                    if ahead.peek() != Some(&']') {
                        self.rest.next();
                        self.out.push('-');
                        let high = self.class_character()??;
                        self.literal(high);
                    }
                }
            }
            first = false;
        }
    }

    /// A character of a class, or `Some(None)` for a category that was written already.
    fn class_character(&mut self) -> Option<Option<char>> {
        match self.rest.next()? {
            '\\' => match self.rest.next()? {
                letter @ ('p' | 'P') => self.category(letter).map(|()| None),
                escaped => single_escape(escaped).map(Some),
            },
            '[' | ']' | '-' => None,
            character => Some(Some(character)),
        }
    }
}

fn single_escape(escaped: char) -> Option<char> {
    Some(match escaped {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '(' | ')' | '*' | '+' | '-' | '.' | '?' | '[' | '\\' | ']' | '^' | '{' | '|' | '}' | '$' => escaped,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_rfc_9485_says() {
        for (pattern, whole, text, expected) in [
            ("a.c", true, "abc", true),
            ("a.c", true, "a\rc", false),
            ("a|b", true, "ab", false),
            ("a|b", false, "xbx", true),
            ("[a-c]{2,3}", true, "abca", false),
            ("[a-c]{2,}", true, "abca", true),
            ("[-a]+", true, "a-a", true),
            ("[a-]+", true, "a-a", true),
            ("[^a]", true, "b", true),
            ("[a&&b]", true, "&", true),
            ("a#b c", true, "a#b c", true),
            ("\\p{Lu}\\P{Lu}", true, "Ab", true),
            ("(ab)*", true, "abab", true),
            ("[\\]\\^]", true, "^", true),
            ("\\$1", true, "$1", true),
            ("^b", false, "ab", false),
            ("", true, "", true),
        ] {
            assert_eq!(compile(pattern, whole).unwrap().is_match(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_rfc_9485_does_not_have_is_refused() {
        for pattern in [
            "\\d",
            "\\w+",
            "(?i)a",
            "(?:a)",
            "a**",
            "a{",
            "a{x}",
            "a{2",
            "[",
            "[]",
            "[a",
            "(",
            ")",
            "]",
            "}",
            "\\",
            "*a",
            "\\p{Greek}",
            "\\p{L",
            "\\pL",
            "[a-\\p{L}]",
            "[a-b-c]",
            "[[:alpha:]]",
            "\\1",
            "a{2000000}",
            "[b-a]",
        ] {
            assert!(compile(pattern, true).is_none(), "{pattern}");
        }
    }
}
