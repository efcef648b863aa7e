//! The documents that the measurements send: orders with a card, of a given size.

/// An order of exactly `size` bytes with three values to seal (`$.card.number`, `$..cvc`, `$.customer.email`); the rest are mixed
/// items: short keys, numbers, booleans, short and longer text.
///
/// # Panics
/// `size` is below 400 bytes.
#[must_use]
pub fn order(size: usize) -> Vec<u8> {
    let head = concat!(
        r#"{"id":"ord_8d1f0c52","currency":"EUR","total":129.90,"paid":false,"#,
        r#""customer":{"name":"Ada Lovelace","email":"ada@example.org","since":1843},"#,
        r#""card":{"number":"4111111111111111","exp":{"month":12,"year":2029},"cvc":"737"},"items":["#
    );
    let tail = "]}";
    let mut out = head.as_bytes().to_vec();
    let mut n = 0;
    loop {
        let item = format!(
            r#"{{"sku":"sku-{n:05}","qty":{},"price":{}.{:02},"gift":{},"note":"left at the door, ring twice"}},"#,
            n % 7 + 1,
            n * 13 % 400,
            n * 7 % 100,
            n % 3 == 0
        );
        if out.len() + item.len() + tail.len() + 12 > size {
            break;
        }
        out.extend_from_slice(item.as_bytes());
        n += 1;
    }
    // The last element pads to the exact size.
    let pad = size.checked_sub(out.len() + tail.len() + 2).expect("at least 400 bytes");
    out.push(b'"');
    out.resize(out.len() + pad, b'x');
    out.push(b'"');
    out.extend_from_slice(tail.as_bytes());
    assert_eq!(out.len(), size);
    out
}
