//! Roles, apps and value types: the names that the header of a token authenticates (SPEC.md, "Names").

use std::fmt;

const ROLE_MAX: usize = 20;
const APP_MAX: usize = 32;

/// Text outside the grammar of a role, an app or a value type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A role is `[a-z][a-z0-9-]{0,19}`.
    #[error("a role is a lower-case letter followed by at most 19 of a-z, 0-9 and -")]
    Role,
    /// An app is `[a-z][a-z0-9-]{0,31}`.
    #[error("an app is a lower-case letter followed by at most 31 of a-z, 0-9 and -")]
    App,
    /// A value type is one of `s`, `n`, `b`, `z`, `j`.
    #[error("a value type is one of s, n, b, z, j")]
    ValueType,
}

/// Inline ASCII text `[a-z][a-z0-9-]*` of at most `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Name<N> {
    fn parse(text: &[u8]) -> Option<Self> {
        let (first, rest) = text.split_first()?;
        let tail = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        if text.len() > N || !first.is_ascii_lowercase() || !rest.iter().all(tail) {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        // N is at most 32, so the length fits.
        Some(Self { bytes, len: text.len() as u8 })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn as_str(&self) -> &str {
        // The constructor lets only ASCII in, so this never falls back.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Name<{ $max }>);

        impl $name {
            /// Reads the name, or says what its grammar is.
            ///
            /// # Errors
            /// The text is outside the grammar.
            pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, NameError> {
                Name::parse(text.as_ref()).map(Self).ok_or($error)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The name as ASCII bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

name!(
    /// The class of data that a token belongs to: `[a-z][a-z0-9-]{0,19}`.
    Role,
    ROLE_MAX,
    NameError::Role
);
name!(
    /// The tenant that owns keys: `[a-z][a-z0-9-]{0,31}`.
    App,
    APP_MAX,
    NameError::App
);

/// What the plaintext of a token is (SPEC.md, "Value types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ValueType {
    /// `s`: the decoded text of a JSON string, UTF-8.
    String = b's',
    /// `n`: a JSON number, its digits as they stood.
    Number = b'n',
    /// `b`: `true` or `false`.
    Bool = b'b',
    /// `z`: `null`.
    Null = b'z',
    /// `j`: any JSON value as its text.
    Json = b'j',
}

impl ValueType {
    /// Reads the letter of the type.
    ///
    /// # Errors
    /// The byte is no letter of a type.
    pub fn from_letter(letter: u8) -> Result<Self, NameError> {
        Ok(match letter {
            b's' => Self::String,
            b'n' => Self::Number,
            b'b' => Self::Bool,
            b'z' => Self::Null,
            b'j' => Self::Json,
            _ => return Err(NameError::ValueType),
        })
    }

    /// The letter that stands for the type in tokens and frames.
    #[must_use]
    pub fn letter(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_only_their_grammar() {
        for good in ["a", "card-number", "a2345678901234567890"] {
            assert_eq!(Role::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "1a", "-a", "a_b", "a.b", "a b", "é", "a23456789012345678901", "a\0"] {
            assert_eq!(Role::parse(bad), Err(NameError::Role), "{bad:?}");
        }
        assert!(App::parse("a2345678901234567890").is_ok());
        assert_eq!(App::parse("a".repeat(33)), Err(NameError::App));
    }

    #[test]
    fn every_letter_of_a_type_reads_back() {
        for byte in 0..=255u8 {
            match ValueType::from_letter(byte) {
                Ok(ty) => assert_eq!(ty.letter(), byte),
                Err(e) => assert_eq!(e, NameError::ValueType),
            }
        }
    }
}
