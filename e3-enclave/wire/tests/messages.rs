//! Every message reads back as it was written, and no bytes make a reader panic or over-allocate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use e3_wire::*;

fn role(text: &str) -> Role {
    Role::parse(text).unwrap()
}

fn sample() -> Vec<u8> {
    let context = Context {
        request_id: "r-1",
        direction: Direction::OutboundRequest,
        destination: "api.pay.example",
        source: "203.0.113.9",
        method: "POST",
        credential: Credential("e3k_secret"),
    };
    let mut w = RequestWriter::new(App::parse("shop").unwrap(), &context, 0);
    w.seal(role("card-number"), ValueType::String, b"4111", false).unwrap();
    w.seal(role("email"), ValueType::String, b"a@b", true).unwrap();
    w.keep_or_seal(role("name"), ValueType::Number, b"1.10", true).unwrap();
    w.open(&[role("a"), role("b")], b"e3v1.a.s.AA.").unwrap();
    w.inspect(b"e3v1.b.s.AA.").unwrap();
    w.rewrap(b"e3v1.c.s.AA.").unwrap();
    w.public_key(role("web")).unwrap();
    w.finish(250)
}

#[test]
fn a_request_reads_back_as_it_was_written() {
    let body = sample();
    let request = Request::read(&body).unwrap();
    assert_eq!(request.timeout_ms, 250);
    assert_eq!(request.app.as_str(), "shop");
    assert_eq!(request.context.destination, "api.pay.example");
    assert_eq!(request.context.direction, Direction::OutboundRequest);
    assert_eq!(request.context.credential.0, "e3k_secret");
    assert!(!format!("{:?}", request.context).contains("secret"));
    assert_eq!(request.items.len(), 7);
    assert!(matches!(request.items[6], Item::PublicKey { role: r } if r == role("web")));
    assert!(matches!(request.items[5], Item::Rewrap { token: b"e3v1.c.s.AA." }));
    assert!(matches!(request.items[0], Item::Seal { value: b"4111", .. }));
    assert!(matches!(request.items[1], Item::SealDeterministic { value: b"a@b", .. }));
    assert!(matches!(request.items[2], Item::KeepOrSeal { value: b"1.10", deterministic: true, .. }));
    let Item::Open { roles, token } = request.items[3] else { panic!("not an open") };
    assert_eq!(roles.iter().map(|r| r.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(roles.contains(role("b")) && !roles.contains(role("c")));
    assert_eq!(token, b"e3v1.a.s.AA.");
}

#[test]
fn an_answer_reads_back_as_it_was_written() {
    let mut w = AnswerWriter::new(0);
    w.token(|out| out.extend_from_slice(b"e3v1.a.s.AA."));
    w.value(ValueType::Number, role("a"), b"1.10");
    w.refused(Refusal::RoleNotAllowed);
    let inspection = Inspection { role: role("x"), value_type: ValueType::Json, suite: 3, kid: 7, time: 9 };
    w.inspection(&inspection);
    w.kept();
    let body = w.finish();
    let Answer::Items(items) = Answer::read(&body).unwrap() else { panic!("refused") };
    assert!(matches!(items[0], ItemAnswer::Token(b"e3v1.a.s.AA.")));
    assert!(matches!(items[1], ItemAnswer::Value { value: b"1.10", value_type: ValueType::Number, .. }));
    assert!(matches!(items[2], ItemAnswer::Refused(Refusal::RoleNotAllowed)));
    assert!(matches!(items[3], ItemAnswer::Inspection(i) if i == inspection));
    assert!(matches!(items[4], ItemAnswer::Kept));
    let refused = RequestRefusal::AuditUnavailable.to_body();
    assert!(matches!(Answer::read(&refused), Ok(Answer::Refused(RequestRefusal::AuditUnavailable))));
}

#[test]
fn truncated_and_extended_messages_are_refused() {
    let body = sample();
    for n in 0..body.len() {
        assert!(Request::read(&body[..n]).is_err(), "prefix of {n} bytes");
    }
    let mut longer = body;
    longer.push(0);
    assert!(matches!(Request::read(&longer), Err(WireError::TrailingBytes)));
}

#[test]
fn altered_bytes_never_panic_and_counts_never_allocate() {
    let body = sample();
    for at in 0..body.len() {
        for bit in 0..8 {
            let mut altered = body.clone();
            altered[at] ^= 1 << bit;
            let _ = Request::read(&altered);
            let _ = Answer::read(&altered);
        }
    }
    // A count of 65,536 items in a frame of a few bytes is refused, not reserved.
    let empty = RequestWriter::new(App::parse("a").unwrap(), &Context::default(), 0).finish(1);
    let mut counted = empty.clone();
    let at = counted.len() - 4;
    counted[at..].copy_from_slice(&65_536u32.to_be_bytes());
    assert!(matches!(Request::read(&counted), Err(WireError::OverLimit)));
}

#[test]
fn an_answer_may_end_in_exactly_one_mark() {
    let mut w = AnswerWriter::new(0);
    w.public_key(7, &[3; 32]);
    let mut body = w.finish();
    assert!(matches!(Answer::read_marked(&body), Ok((Answer::Items(items), None)) if items.len() == 1));
    let mark = Mark { boot: [1; 16], sequence: 9, head: [2; 32] };
    body.extend_from_slice(&mark.to_bytes());
    assert!(matches!(Answer::read_marked(&body), Ok((_, Some(read))) if read == mark));
    for cut in 1..MARK {
        assert_eq!(Answer::read(&body[..body.len() - cut]).err(), Some(WireError::Truncated));
    }
    body.push(0);
    assert_eq!(Answer::read(&body).err(), Some(WireError::TrailingBytes));
}
