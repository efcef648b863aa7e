//! Which rules a request meets, and that no spelling of it gets round them.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

use std::path::Path;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use proptest::prelude::*;
use relay::config;
use relay::config::resolved::Site;
use relay::error::{Failure, PathFault, Side};
use relay::rules::media::{RecordForm, Shape};
use relay::rules::path::{GlobError, NormalPath, PathGlob};
use relay::rules::route::Direction;

/// A site with these rules and keys, checked as a file would be.
fn site(keys: &str, rules: &str) -> std::sync::Arc<Site> {
    let text = format!(
        "engine: {{endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}}\n\
         inbound:\n  - listen: 127.0.0.1:0\n    hosts: [api.example]\n    backend: http://127.0.0.1:9\n    {keys}\n    rules:\n{rules}"
    );
    let checked = config::check(Path::new("test.yaml"), &text).unwrap_or_else(|report| panic!("{report}"));
    let site = checked.config.inbound[0].sites.get("api.example").unwrap();
    std::sync::Arc::clone(site)
}

fn orders(keys: &str) -> std::sync::Arc<Site> {
    site(
        keys,
        "      - {match: {methods: [POST, PUT], path: /v1/orders/**}, request: {seal: [{select: $.card, role: card}]}}\n",
    )
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// `true`: ruled; `false`: passes untouched.
fn ruled(site: &Site, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<bool, Failure> {
    let head = head(method, target, headers);
    let (route, direction) = site.rules.route(&head, head.uri.path())?;
    assert_eq!(route.is_ruled(), matches!(direction, Direction::Planned(_)));
    Ok(route.is_ruled())
}

#[test]
fn a_path_has_one_reading_or_none() {
    use PathFault::{Backslash, DotSegment, EmptySegment, EncodedDelimiter, Escape, Malformed, Parameter};
    let good = [
        ("/", "/"),
        ("*", "/"),
        ("/v1/orders", "/v1/orders"),
        ("/v1/orders/", "/v1/orders"),
        ("/v1/%6frders", "/v1/orders"),
        ("/v1/%6Frders", "/v1/orders"),
        ("/%76%31/%6f%72%64%65%72%73", "/v1/orders"),
        ("/v1/orders/%37", "/v1/orders/7"),
        ("/%E2%82%AC", "/€"),
        ("/%e2%82%ac/", "/€"),
        ("/a%20b", "/a b"),
        ("/a.b/..c/.d", "/a.b/..c/.d"),
        ("/a%2eb", "/a.b"),
        ("/..a", "/..a"),
        ("/a./b", "/a/b"),
        ("/a../b.", "/a/b"),
        ("/a%20", "/a"),
        ("/a%2e%20./b%e3%80%80", "/a/b"),
        ("/a:b@c!$&'()*+,=~-_", "/a:b@c!$&'()*+,=~-_"),
        ("/%2a", "/*"),
        ("/a%3fb", "/a?b"),
        ("/a%23b", "/a#b"),
        ("/100%25", "/100%"),
        ("/100%25/x", "/100%/x"),
        ("/%25zz", "/%zz"),
        ("/V1/Orders", "/V1/Orders"),
        ("/[x]|{y}\"<>^`", "/[x]|{y}\"<>^`"),
    ];
    for (path, normal) in good {
        let read = NormalPath::read(path).unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
        assert_eq!(read.shown(), normal, "{path}");
    }
    let bad = [
        ("", Malformed),
        ("v1", Malformed),
        ("**", Malformed),
        ("http://api.example/v1", Malformed),
        ("//", EmptySegment),
        ("///", EmptySegment),
        ("//v1", EmptySegment),
        ("/v1//orders", EmptySegment),
        ("/v1/orders//", EmptySegment),
        ("/.", DotSegment),
        ("/..", DotSegment),
        ("/./", DotSegment),
        ("/v1/./orders", DotSegment),
        ("/v1/../orders", DotSegment),
        ("/v1/..", DotSegment),
        ("/v1/../", DotSegment),
        ("/v1/%2e/orders", DotSegment),
        ("/v1/%2E%2e/orders", DotSegment),
        ("/v1/.%2e/orders", DotSegment),
        ("/v1/%2e./orders", DotSegment),
        ("/v1/orders/%2e%2E", DotSegment),
        ("/v1/...", DotSegment),
        ("/v1/%2e%2e%2e/orders", DotSegment),
        ("/v1/%20", DotSegment),
        ("/v1/.%20./orders", DotSegment),
        ("/v1/%c2%a0/orders", DotSegment),
        ("/v1%2forders", EncodedDelimiter),
        ("/v1%2Forders", EncodedDelimiter),
        ("/%2fv1", EncodedDelimiter),
        ("/v1%5corders", EncodedDelimiter),
        ("/v1%5Corders", EncodedDelimiter),
        ("/v1/..%5corders", EncodedDelimiter),
        ("/v1/orders%00", EncodedDelimiter),
        ("/v1/orders%00.json", EncodedDelimiter),
        ("/v1\\orders", Backslash),
        ("\\v1", Malformed),
        ("/v1/orders;x=1", Parameter),
        ("/v1/orders;", Parameter),
        ("/v1;/orders", Parameter),
        ("/v1/..;/orders", Parameter),
        ("/v1/orders%3bx", Parameter),
        ("/v1/orders%3Bx", Parameter),
        ("/v1/%", Escape),
        ("/v1/%4", Escape),
        ("/v1/%4/x", Escape),
        ("/v1/%zz", Escape),
        ("/v1/%+1", Escape),
        ("/v1/%u002f", Escape),
        ("/v1/%252e", Escape),
        ("/v1/%252f", Escape),
        ("/v1/%25252f", Escape),
        ("/v1/%25%32%66", Escape),
        ("/v1/%ff", Escape),
        ("/v1/%c0%af", Escape),
        ("/v1/%c0%ae%c0%ae", Escape),
        ("/v1/%e2%82", Escape),
        ("/v1/%ed%a0%80", Escape),
        ("/v1/%0a", Malformed),
        ("/v1/%0d%0a", Malformed),
        ("/v1/%1f", Malformed),
        ("/v1/%7f", Malformed),
        ("/v1/a b", Malformed),
        ("/v1/\u{e9}", Malformed),
        ("/v1/\t", Malformed),
        ("/v1/a#b", Malformed),
        ("/v1/a?b", Malformed),
    ];
    for (path, fault) in bad {
        assert_eq!(NormalPath::read(path), Err(fault), "{path}");
    }
    assert!(good.len() + bad.len() >= 60);
}

#[test]
fn patterns_match_whole_segments() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "/v1/orders",
            &[
                "/v1/orders",
                "/v1/orders/",
                "/v1/%6frders",
                "/v1/orders.",
                "/v1/orders%20",
                "/v1./orders%20.",
                "/v1/orders./",
            ],
            &["/v1", "/v1/orders/1", "/v1/ordersx", "/V1/orders", "/"],
        ),
        ("/v1/orders/", &["/v1/orders", "/v1/orders/"], &["/v1"]),
        ("/v1/orders.%20", &["/v1/orders", "/v1/orders."], &["/v1", "/v1/order"]),
        ("/f*.", &["/f", "/f1", "/f1."], &["/g"]),
        ("/f.*", &["/f.", "/f.a", "/f.a."], &["/f", "/fa"]),
        ("/v1/orders/**", &["/v1/orders", "/v1/orders/1", "/v1/orders/1/2"], &["/v1", "/v1/orders2", "/"]),
        ("/v1/*/items", &["/v1/a/items", "/v1/a/items/"], &["/v1/items", "/v1/a/b/items"]),
        ("/**/items", &["/items", "/a/items", "/a/items/b/items"], &["/items/a", "/"]),
        ("/a/**/b/**/c", &["/a/b/c", "/a/x/b/y/z/c", "/a/b/b/c/c"], &["/a/c", "/a/b", "/a/c/b"]),
        ("/f-*.json", &["/f-1.json", "/f-.json"], &["/f-1.jsonx", "/f.json"]),
        ("/*a*b*", &["/ab", "/xaxbx"], &["/ba"]),
        ("/**", &["/", "/a/b"], &[]),
        ("/**/**/a", &["/a", "/b/a"], &["/b"]),
        ("/", &["/"], &["/a"]),
        ("/*", &["/a"], &["/", "/a/b"]),
        ("/%2a", &["/*", "/%2a"], &["/a"]),
        ("/%6f", &["/o"], &["/oo"]),
        ("/é x", &["/%C3%A9%20x"], &["/e"]),
    ];
    for (glob, yes, no) in cases {
        let glob = PathGlob::new(glob, false).unwrap();
        for path in *yes {
            assert!(glob.matches(&NormalPath::read(path).unwrap()), "{} {path}", glob.source());
        }
        for path in *no {
            assert!(!glob.matches(&NormalPath::read(path).unwrap()), "{} {path}", glob.source());
        }
    }
    let folded = PathGlob::new("/V1/Orders/*X", true).unwrap();
    assert!(folded.matches(&NormalPath::read("/v1/ORDERS/aax").unwrap()));
    assert!(folded.matches(&NormalPath::read("/v1/ORDER%C5%BF/x").unwrap()), "ſ is an s");
    for (pattern, error) in [
        ("v1", GlobError::NotAbsolute),
        ("", GlobError::NotAbsolute),
        ("**", GlobError::NotAbsolute),
        ("/a**", GlobError::DoubleStar),
        ("/a/***", GlobError::DoubleStar),
        ("/a/../b", GlobError::Unreachable),
        ("/a/.../b", GlobError::Unreachable),
        ("/a/ ", GlobError::Unreachable),
        ("/a/%2e/b", GlobError::Unreachable),
        ("/a//b", GlobError::Unreachable),
        ("//", GlobError::Unreachable),
        ("/a;b", GlobError::Unreachable),
        ("/a%2fb", GlobError::Unreachable),
        ("/a\\b", GlobError::Unreachable),
        ("/a%", GlobError::Unreachable),
        ("/a?x=1", GlobError::Query),
        ("/a#x", GlobError::Query),
    ] {
        assert_eq!(PathGlob::new(pattern, false), Err(error), "{pattern}");
    }
}

#[test]
fn patterns_that_share_a_path_are_known() {
    let cases = [
        ("/v1/**", "/v1/orders", true),
        ("/**/a", "/b/**", true),
        ("/*/x", "/y/*", true),
        ("/a/**", "/a", true),
        ("/v1/**", "/v2/**", false),
        ("/a", "/a/b", false),
        ("/a-*", "/b-*", false),
        ("/a-*/x", "/a-b/x", true),
        ("/*.json", "/*.xml", false),
        ("/**/a/**/b", "/b/**/a", false),
    ];
    for (a, b, shared) in cases {
        let (one, other) = (PathGlob::new(a, false).unwrap(), PathGlob::new(b, false).unwrap());
        assert_eq!(one.can_meet(&other), shared, "{a} {b}");
        assert_eq!(other.can_meet(&one), shared, "{b} {a}");
    }
    for (wide, narrow, covers) in [
        ("/v1/**", "/v1/orders/*", true),
        ("/**", "/a/**/b", true),
        ("/v1/*", "/v1/orders", true),
        ("/v1/o*", "/v1/orders", true),
        ("/v1/orders", "/v1/orders.", true),
        ("/v1/orders", "/v1/*", false),
        ("/v1/*", "/v1/**", false),
        ("/v1/**", "/**", false),
        ("/v1/**/x", "/v1/**", false),
        ("/v1/**/x", "/v1/a/**/x", true),
    ] {
        let (one, other) = (PathGlob::new(wide, false).unwrap(), PathGlob::new(narrow, false).unwrap());
        assert_eq!(one.covers(&other), covers, "{wide} {narrow}");
    }
    // Quadratic, not exponential.
    let many = "/**/a".repeat(200);
    let (one, other) = (PathGlob::new(&many, false).unwrap(), PathGlob::new(&format!("{many}/b"), false).unwrap());
    assert!(!one.can_meet(&other));
    let path = format!("/{}b", "a/".repeat(400));
    assert!(!one.matches(&NormalPath::read(&path).unwrap()));
}

/// What a pattern means, without any cleverness.
fn naive(pattern: &[&str], path: &[&str]) -> bool {
    fn text(pattern: &[u8], segment: &[u8]) -> bool {
        match (pattern, segment) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => text(rest, segment) || (!segment.is_empty() && text(pattern, &segment[1..])),
            ([p, rest @ ..], [s, tail @ ..]) if p == s => text(rest, tail),
            _ => false,
        }
    }
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => naive(rest, path) || (!path.is_empty() && naive(pattern, &path[1..])),
        ([p, rest @ ..], [s, tail @ ..]) => text(p.as_bytes(), s.as_bytes()) && naive(rest, tail),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn patterns_mean_what_a_naive_reading_says(
        pattern in prop::collection::vec(prop_oneof![
            3 => "[ab]{1,2}", 1 => "[ab*]{1,3}".prop_filter("**", |s| !s.contains("**")), 2 => Just("**".to_owned()),
        ], 0..6),
        other in prop::collection::vec(prop_oneof![3 => "[ab]{1,2}", 1 => Just("*".to_owned()), 2 => Just("**".to_owned())], 0..5),
        path in prop::collection::vec("[ab]{1,2}", 0..7),
    ) {
        let glob = |segments: &[String]| PathGlob::new(&format!("/{}", segments.join("/")), false).unwrap();
        fn strs(segments: &[String]) -> Vec<&str> {
            segments.iter().map(String::as_str).collect()
        }
        let text = format!("/{}", path.join("/"));
        let normal = NormalPath::read(&text).unwrap();
        let first = naive(&strs(&pattern), &strs(&path));
        let second = naive(&strs(&other), &strs(&path));
        prop_assert_eq!(glob(&pattern).matches(&normal), first);
        if first && second {
            prop_assert!(glob(&pattern).can_meet(&glob(&other)));
            prop_assert!(glob(&other).can_meet(&glob(&pattern)));
        }
    }

    #[test]
    fn reading_a_path_never_panics(path in "(/|\\*|%|[ -~]|\\PC){0,40}") {
        if let Ok(normal) = NormalPath::read(&path) {
            prop_assert!(!normal.shown()[1..].split('/').any(|s| matches!(s, "." | "..")));
        }
    }
}

#[test]
fn no_spelling_of_a_path_gets_round_a_rule() {
    let site = orders("unruled: pass");
    for target in
        ["/v1/orders", "/v1/orders/", "/v1/orders/7", "/v1/%6frders/7", "/%76%31/orders", "/v1/orders?x=/../y"]
            .into_iter()
            .chain(["/v1/orders.", "/v1/orders%20", "/v1./orders..%20/7"])
    {
        assert_eq!(ruled(&site, "POST", target, &[]), Ok(true), "{target}");
    }
    for target in ["/v1/Orders", "/V1/orders", "/v2/orders", "/v1", "/v1/ordersx"] {
        assert_eq!(ruled(&site, "POST", target, &[]), Ok(false), "{target}");
    }
    for target in [
        "/v1//orders",
        "/x/../v1/orders",
        "/v1/orders;a",
        "/v1%2forders",
        "/v1/%2e%2e/orders",
        "/v1/orders%00",
        "/v1/%",
        "/v1/.../orders",
        "/v1/%20/orders",
    ] {
        assert!(matches!(ruled(&site, "POST", target, &[]), Err(Failure::Path(_))), "{target}");
    }
    assert_eq!(ruled(&site, "POST", "*", &[]), Err(Failure::Path(PathFault::Malformed)));
    assert_eq!(ruled(&site, "OPTIONS", "*", &[]), Ok(false));
    let folded = orders("fold_case: true");
    for target in ["/v1/Orders", "/V1/ORDERS/7", "/v1/%4frders"] {
        assert_eq!(ruled(&folded, "POST", target, &[]), Ok(true), "{target}");
    }
}

/// A rule looks at every reading of a path; a destination opens one only if each reading is open.
#[test]
fn no_spelling_of_a_path_opens_another() {
    let text = "engine: {endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}\n\
                outbound:\n  - listen: 127.0.0.1:0\n    destinations:\n      \
                - {host: pay.example, paths: [/charges, /v1/**], rules: [{request: {open: [{select: $.a, roles: [a]}]}}]}\n";
    let checked = config::check(Path::new("test.yaml"), text).unwrap_or_else(|report| panic!("{report}"));
    let site = checked.config.outbound[0].sites.get("pay.example").unwrap();
    for target in ["/charges", "/charges/", "/%63harges", "/v1/a."] {
        assert_eq!(ruled(site, "POST", target, &[]), Ok(true), "{target}");
    }
    for target in ["/charges.", "/charges%20", "/charges./", "/v1./a", "/v1%20/a"] {
        assert_eq!(ruled(site, "POST", target, &[]), Err(Failure::ClosedPath), "{target}");
    }
}

#[test]
fn no_other_method_hides_in_a_request() {
    let site = orders("unruled: pass");
    assert_eq!(ruled(&site, "GET", "/v1/orders", &[]), Ok(false));
    for method in ["post", "Post", "pUT"] {
        assert_eq!(ruled(&site, method, "/v1/orders", &[]), Err(Failure::MethodOverride), "{method}");
    }
    assert_eq!(ruled(&site, "patch", "/v1/orders", &[]), Ok(false), "no rule is for PATCH");
    for name in [
        "X-HTTP-Method-Override",
        "x-http-method",
        "X-METHOD-OVERRIDE",
        "X_HTTP_Method_Override",
        "x-http_method-override",
        "X_Method_Override",
        "X-Override-Method",
        "X-Method",
        "X-HTTP-Verb",
    ] {
        assert_eq!(ruled(&site, "GET", "/v1/orders", &[(name, "POST")]), Err(Failure::MethodOverride), "{name}");
    }
    for query in [
        "_method=POST",
        "a=1&_method=POST",
        "a=1;_method=POST",
        "%5fmethod=POST",
        "_%6Dethod=POST",
        "_METHOD=POST",
        "_method",
        "+_method=POST",
        "%20_method=POST",
        ".method=POST",
        "[method=POST",
        "_method%00x=POST",
        "_method[]=POST",
        "X-HTTP-Method-Override=POST",
        "a=1&x-http-method%2doverride=POST",
    ] {
        let target = format!("/v1/orders?{query}");
        assert_eq!(ruled(&site, "GET", &target, &[]), Err(Failure::MethodOverride), "{query}");
    }
    for query in ["method=POST", "x_method=POST", "_methods=POST", "a=_method", "payment_method=card"] {
        assert_eq!(ruled(&site, "GET", &format!("/v1/orders?{query}"), &[]), Ok(false), "{query}");
    }
    let every = site_of_every_method();
    assert_eq!(ruled(&every, "get", "/", &[]), Err(Failure::MethodOverride));
    let get = self::site("", "      - {match: {methods: [GET]}, request: {seal: [{select: $.a, role: a}]}}\n");
    assert_eq!(ruled(&get, "HEAD", "/", &[]), Ok(true), "HEAD is GET without a body");
    assert_eq!(ruled(&get, "head", "/", &[]), Err(Failure::MethodOverride));
}

fn site_of_every_method() -> std::sync::Arc<Site> {
    site("", "      - {request: {seal: [{select: $.a, role: a}]}}\n")
}

#[test]
fn no_other_path_hides_in_a_header() {
    let site = orders("unruled: pass");
    for name in [
        "X-Original-URL",
        "x-rewrite-url",
        "X_Original_URL",
        "X-Original-Uri",
        "X-Rewrite-Uri",
        "X-Override-Url",
        "x-override-uri",
        "X-HTTP-Path-Override",
    ] {
        let refused = ruled(&site, "POST", "/public", &[(name, "/v1/orders")]);
        assert_eq!(refused, Err(Failure::PathOverride), "{name}");
        assert_eq!(ruled(&site, "POST", "/public?a", &[(name, "/public?a")]), Ok(false), "{name} says what is true");
    }
}

#[test]
fn a_site_without_rules_lets_overrides_pass() {
    let bare = site("", "      []\n");
    assert_eq!(ruled(&bare, "post", "/?_method=PUT", &[("x-http-method", "PUT")]), Ok(false));
    assert!(matches!(ruled(&bare, "GET", "/a/../b", &[]), Err(Failure::Path(_))));
}

#[test]
fn unruled_requests_are_refused_where_the_site_says_so() {
    let site = orders("unruled: refuse");
    assert_eq!(ruled(&site, "POST", "/v1/orders", &[]), Ok(true));
    assert_eq!(ruled(&site, "GET", "/v1/orders", &[]), Err(Failure::Unruled));
    assert_eq!(ruled(&site, "POST", "/health", &[]), Err(Failure::Unruled));
}

#[test]
fn a_media_type_never_takes_a_request_out_of_its_rules() {
    let site = orders("");
    let check = |fields: &[(&'static str, &'static str)]| {
        let request = head("POST", "/v1/orders", &[]);
        let (route, _) = site.rules.route(&request, "/v1/orders").unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        site.rules.check_request_media(&route, &headers)
    };
    for good in [
        "application/json",
        "APPLICATION/JSON",
        "application/json;charset=utf-8",
        "application/json ; charset=\"UTF-8\"",
        "application/json; charset=utf8; x=y",
        "application/problem+json",
        "application/vnd.api+JSON; profile=x",
    ] {
        assert_eq!(check(&[("content-type", good)]), Ok(Shape::Document), "{good}");
    }
    for (records, form) in [
        ("application/x-ndjson", RecordForm::Lines),
        ("Application/NDJSON;charset=utf-8", RecordForm::Lines),
        ("application/jsonl", RecordForm::Lines),
        ("application/x-jsonlines", RecordForm::Lines),
        ("text/Event-Stream; charset=UTF-8", RecordForm::Events),
    ] {
        assert_eq!(check(&[("content-type", records)]), Ok(Shape::Records(form)), "{records}");
    }
    for bad in [
        "",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/json-seq",
        "xapplication/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, text/plain",
        "text/plain, application/json",
        "application/json/x",
        "application /json",
        "application/json;charset=utf-16",
        "application/json; charset=\"utf-7\"",
        "application/json; CHARSET = iso-8859-1",
        "json",
        "*/*",
    ] {
        assert_eq!(check(&[("content-type", bad)]), Err(Failure::MediaType(Side::Request)), "{bad}");
    }
    assert_eq!(check(&[]), Err(Failure::MediaType(Side::Request)), "none is named");
    let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
    assert_eq!(check(&twice), Err(Failure::MediaType(Side::Request)));
    for coding in ["gzip", "br", "identity, gzip", "GZIP", "", "aes128gcm"] {
        let fields = [("content-type", "application/json"), ("content-encoding", coding)];
        assert_eq!(check(&fields), Err(Failure::ContentCoding(Side::Request)), "{coding}");
    }
    assert_eq!(check(&[("content-type", "application/json"), ("content-encoding", "Identity")]), Ok(Shape::Document));
}

#[test]
fn all_rules_that_a_message_meets_apply() {
    let site = site(
        "",
        "      - {match: {path: /a/**}, request: {seal: [{select: $.a, role: a}]}, response: {status: [200-299, 404], open: [{select: $.r, roles: [r]}]}}\n      \
         - {match: {path: /a/b, headers: {X-Tenant: 'acme-*'}}, request: {seal: [{select: $.b, role: b}]}}\n      \
         - {match: {path: /a/*}, response: {status: [500], seal: [{select: $.e, role: e}]}}\n",
    );
    let sources = |direction: &Direction| match direction {
        Direction::Planned(plan) => plan.actions().iter().map(|a| a.source.to_string()).collect::<Vec<_>>(),
        Direction::Untouched(_) => Vec::new(),
    };
    let route = |path: &str, headers: &[(&str, &str)]| site.rules.route(&head("POST", path, headers), path).unwrap();
    let (one, request) = route("/a", &[]);
    assert_eq!((one.rules().collect::<Vec<_>>(), sources(&request)), (vec![0], vec!["$.a".to_owned()]));
    assert!(one.expects_response());
    for (status, expected) in [(200, vec!["$.r"]), (299, vec!["$.r"]), (404, vec!["$.r"]), (302, vec![]), (500, vec![])]
    {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(sources(&site.rules.response(&one, status)), expected, "{status}");
    }
    let (all, request) = route("/a/b", &[("x-tenant", "acme-eu")]);
    assert_eq!((all.rules().collect::<Vec<_>>(), sources(&request)), (vec![0, 1, 2], vec!["$.a".into(), "$.b".into()]));
    assert_eq!(sources(&site.rules.response(&all, StatusCode::INTERNAL_SERVER_ERROR)), ["$.e"]);
    let (_, again) = route("/a/b", &[("x-tenant", "acme-us")]);
    match (request, again) {
        (Direction::Planned(a), Direction::Planned(b)) => assert!(std::sync::Arc::ptr_eq(&a, &b), "compiled once"),
        _ => panic!("both are ruled"),
    }
    let (two, request) = route("/a/b", &[("x-tenant", "other")]);
    assert_eq!((two.rules().collect::<Vec<_>>(), sources(&request)), (vec![0, 2], vec!["$.a".to_owned()]));
}

#[test]
fn only_rules_for_the_status_say_what_a_response_may_be() {
    let site = site(
        "",
        "      - {match: {media_types: [application/json]}, response: {status: [200], open: [{select: $.a, roles: [a]}]}}\n      \
         - {match: {media_types: [application/vnd.error]}, response: {status: [400-499], seal: [{select: $.b, role: b}]}}\n",
    );
    let (route, _) = site.rules.route(&head("GET", "/", &[]), "/").unwrap();
    let check = |status: u16, media: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        site.rules.check_response_media(&route, StatusCode::from_u16(status).unwrap(), &headers)
    };
    assert_eq!(check(200, "application/json"), Ok(Shape::Document));
    assert_eq!(check(404, "application/vnd.error"), Ok(Shape::Document));
    assert_eq!(check(404, "application/json"), Err(Failure::MediaType(Side::Response)));
    assert_eq!(check(200, "application/vnd.error"), Err(Failure::MediaType(Side::Response)));
}

#[test]
fn hosts_go_to_their_sites() {
    let entry = |host: &str| {
        format!("  - {{listen: 127.0.0.1:0, hosts: [\"{host}\"], backend: http://127.0.0.1:9, rules: []}}\n")
    };
    let text = format!(
        "engine: {{endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}}\ninbound:\n{}{}{}{}{}",
        entry("API.example"),
        entry("*.example"),
        entry("*.deep.example"),
        entry("[::1]"),
        entry("127.0.0.1")
    );
    let config = config::check(Path::new("test.yaml"), &text).unwrap_or_else(|report| panic!("{report}")).config;
    let find = |host: &str| {
        let host = relay::rules::host::normal_host(host)?;
        config.inbound[0].sites.get(&host).map(|site| site.name.to_string())
    };
    for (host, site) in [
        ("api.example", Some("api.example")),
        ("API.EXAMPLE.:80", Some("api.example")),
        ("other.example", Some("*.example")),
        ("a.b.example", Some("*.example")),
        ("a.deep.example", Some("*.deep.example")),
        ("deep.example", Some("*.example")),
        ("[0::1]:80", Some("::1")),
        ("127.0.0.1:8080", Some("127.0.0.1")),
        ("example", None),
        (".example", None),
        ("xexample", None),
        ("api.example.org", None),
        ("evil.org/.example", None),
        ("api.example@evil.org", None),
    ] {
        assert_eq!(find(host).as_deref(), site, "{host}");
    }
}
