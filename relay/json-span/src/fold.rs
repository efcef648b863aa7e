//! Case folding of member names.
//!
//! Two names are equal when their characters have the same simple case folding (Unicode CaseFolding, statuses C and S).
//! The dotted and dotless i (U+0130, U+0131) fold to `i` as well: decoders that compare upper-case forms first take
//! them for it, and a rule must reach every key that such a decoder would read.

/// The fold of one character.
fn fold_char(character: char) -> char {
    match character {
        'A'..='Z' => return character.to_ascii_lowercase(),
        '\0'..='\x7f' => return character,
        '\u{130}' => return 'i',
        // Equal by CaseFolding status S, although their case mappings are several characters long.
        '\u{1fd3}' => return '\u{390}',
        '\u{1fe3}' => return '\u{3b0}',
        '\u{fb05}' => return '\u{fb06}',
        _ => {}
    }
    let upper = single(character.to_uppercase()).unwrap_or(character);
    single(upper.to_lowercase()).unwrap_or(upper)
}

/// The only character of a case mapping that has one.
fn single(mut mapped: impl Iterator<Item = char>) -> Option<char> {
    mapped.next().filter(|_| mapped.next().is_none())
}

/// Appends the fold of a decoded name to `out`. Bytes that are no UTF-8 (a lone surrogate) stay: they equal no name.
pub(crate) fn fold_name(name: &[u8], out: &mut Vec<u8>) {
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii() {
                out.push(character.to_ascii_lowercase() as u8);
            } else {
                out.extend_from_slice(fold_char(character).encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// The fold of a name.
pub(crate) fn folded(name: &str) -> String {
    name.chars().map(fold_char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_as_case_insensitive_decoders_fold_them() {
        for (one, other) in [
            ("CARD", "card"),
            ("ca\u{17f}h", "CASH"),
            ("to\u{212a}en", "token"),
            ("\u{212b}", "å"),
            ("ΣΊΣΥΦΟς", "σίσυφοσ"),
            ("ẞ", "ß"),
            ("\u{130}d", "ID"),
            ("\u{131}d", "id"),
            ("\u{1fd3}", "\u{390}"),
            ("ᾈ", "ᾀ"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("ß"), folded("ss"));
        assert_ne!(folded("card"), folded("cart"));
    }

    #[test]
    fn folding_agrees_with_the_simple_case_folding_of_another_implementation() {
        // The regex crate folds by CaseFolding.txt; every character must match its own fold without regard to case.
        let unassigned = regex::Regex::new("\\p{Cn}").unwrap();
        for character in (0..=0x10ffff).filter_map(char::from_u32) {
            let fold = fold_char(character);
            assert_eq!(fold_char(fold), fold, "{character:?} folds in one step");
            let unknown_there = unassigned.is_match(character.encode_utf8(&mut [0; 4]));
            if fold == character || matches!(character, '\u{130}' | '\u{131}') || unknown_there {
                continue;
            }
            let pattern = format!("(?i)^\\x{{{:x}}}$", character as u32);
            assert!(regex::Regex::new(&pattern).unwrap().is_match(&fold.to_string()), "{character:?} {fold:?}");
        }
    }

    #[test]
    fn every_pair_that_folds_alike_elsewhere_folds_alike_here() {
        // Classes of the regex crate: one character each whose class has more than one member.
        for character in
            (0..=0x10ffff).filter_map(char::from_u32).filter(|c| c.is_alphabetic() || c.is_numeric() || !c.is_ascii())
        {
            let lower: Vec<char> = character.to_lowercase().collect();
            let upper: Vec<char> = character.to_uppercase().collect();
            for mapped in [lower, upper] {
                if let [only] = mapped[..] {
                    assert_eq!(fold_char(only), fold_char(character), "{character:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_without_utf8_stay() {
        let mut out = Vec::new();
        fold_name(b"A\xed\xa0\x80B", &mut out);
        assert_eq!(out, b"a\xed\xa0\x80b");
    }
}
