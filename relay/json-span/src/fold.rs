//! Case folding as case-insensitive decoders of JSON keys do it.

/// Folds one character: `S`, `s` and `ſ` (U+017F) are one, as are `K`, `k` and the Kelvin sign (U+212A).
pub(crate) fn fold(c: char) -> char {
    let one = |mut chars: Box<dyn Iterator<Item = char>>, otherwise: char| match (chars.next(), chars.next()) {
        (Some(only), None) => only,
        _ => otherwise,
    };
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let upper = one(Box::new(c.to_uppercase()), c);
    one(Box::new(upper.to_lowercase()), upper)
}

/// Folds a whole key.
pub(crate) fn fold_text(text: &str) -> String {
    text.chars().map(fold).collect()
}
