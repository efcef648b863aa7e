//! Total times: whoever is late is answered or cut, and whoever is merely slow is not.

use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Relay, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "connections: {head_time: 300ms, idle_time: 20s}");
    Client::connect(relay.address).assert_closed();
    let relay = Relay::before_with(backend.address, "connections: {head_time: 20s, idle_time: 300ms}");
    let mut client = Client::connect(relay.address);
    assert_eq!(client.ask(GET).status, 200);
    client.assert_closed();
}

#[test]
fn a_head_that_drips_is_answered_408_however_steady_it_is() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "connections: {head_time: 400ms}");
    for earlier in [false, true] {
        let mut client = Client::connect(relay.address);
        if earlier {
            assert_eq!(client.ask(GET).status, 200);
        }
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nX: ");
        while started.elapsed() < Duration::from_secs(2) && std::io::Write::write(&mut client.stream, b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
            if matches!(client.stream.set_nonblocking(true).and_then(|()| client.stream.peek(&mut [0])), Ok(n) if n > 0)
            {
                break;
            }
        }
        client.stream.set_nonblocking(false).unwrap();
        let answer = client.answer();
        assert_eq!((answer.status, answer.code().as_str()), (408, "request/timeout"));
        client.assert_closed();
    }
}

#[test]
fn a_streamed_body_may_be_slow_but_not_silent_nor_endless() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "limits: {stream_idle: 500ms, stream_time: 10s}");
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n";
    let mut slow = Client::connect(relay.address);
    slow.send(head);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        slow.send("x");
    }
    assert_eq!(slow.answer().text(), "xxxxxxxxxx");
    let mut silent = Client::connect(relay.address);
    silent.send(head).send("xxx");
    let answer = silent.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "request/timeout"));

    let relay = Relay::before_with(backend.address, "limits: {stream_idle: 5s, stream_time: 600ms}");
    let mut endless = Client::connect(relay.address);
    endless.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) && std::io::Write::write(&mut endless.stream, b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        if matches!(endless.stream.set_nonblocking(true).and_then(|()| endless.stream.peek(&mut [0])), Ok(n) if n > 0) {
            break;
        }
    }
    endless.stream.set_nonblocking(false).unwrap();
    assert_eq!(endless.answer().status / 100, 4);
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_answered_for() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        while peer.fill() > 0 {}
    });
    let relay = Relay::before_with(backend.address, "limits: {response_time: 300ms}");
    for request in [GET, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}"] {
        let mut client = Client::connect(relay.address);
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream/timeout"));
        backend.wait_for_open(0);
        // The client's connection is in order.
        assert_eq!(client.ask(request).status, 504);
    }
    assert_eq!(backend.requests().len(), 4, "nothing was sent twice");
}

#[test]
fn a_request_behind_another_lifts_no_deadline() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        while peer.fill() > 0 {}
    });
    let relay = Relay::before_with(backend.address, "limits: {response_time: 500ms}");
    let mut client = Client::connect(relay.address);
    client.send(GET);
    backend.wait_for_open(1);
    client.send(GET);
    for _ in 0..2 {
        let answer = client.answer();
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream/timeout"));
    }
}

#[test]
fn a_request_has_one_time_for_everything() {
    // Each part is well within its own time.
    let backend = Backend::raw(|mut peer| {
        while let Some(request) = peer.request() {
            let length = if request.line.contains("drip") { 1000 } else { 2 };
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            for _ in 0..length {
                std::thread::sleep(Duration::from_millis(30));
                peer.write("x");
            }
        }
    });
    let relay = Relay::before_with(backend.address, "limits: {request_time: 1s, stream_idle: 20s}");
    let mut client = Client::connect(relay.address);
    // Each request has its own.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        assert_eq!(client.ask(GET).status, 200);
    }
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n");
    while std::io::Write::write(&mut client.stream, b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(30));
        assert!(started.elapsed() < Duration::from_secs(15), "it goes on");
        if matches!(client.stream.set_nonblocking(true).and_then(|()| client.stream.peek(&mut [0])), Ok(n) if n > 0) {
            break;
        }
    }
    client.stream.set_nonblocking(false).unwrap();
    assert_eq!(client.answer().status, 408);
    let mut client = Client::connect(relay.address);
    client.send(GET.replace("/ ", "/drip "));
    assert_eq!(client.head().status, 200);
    let mut all = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut all);
    assert!(all.len() < 1000, "it was cut");
}

#[test]
fn an_answer_that_stops_is_cut() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        while peer.fill() > 0 {}
    });
    let relay = Relay::before_with(backend.address, "limits: {stream_idle: 300ms}");
    let mut client = Client::connect(relay.address);
    client.send(GET);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.take(4), b"half");
    client.assert_closed();
    backend.wait_for_open(0);
}

#[test]
fn a_client_that_does_not_read_is_cut_and_one_that_reads_slowly_is_not() {
    let size = 16 * 1024 * 1024;
    let backend = Backend::raw(move |mut peer| {
        while peer.request().is_some() {
            peer.write(ok(&vec![b'x'; size]));
        }
    });
    let relay = Relay::before_with(
        backend.address,
        "limits: {stream_idle: 500ms, stream_time: 60s}\nconnections: {idle_time: 500ms}",
    );
    let mut idle = Client::connect(relay.address);
    idle.send(GET);
    backend.wait_for_open(1);
    backend.wait_for_open(0);
    let mut slow = Client::connect(relay.address);
    slow.send(GET);
    assert_eq!(slow.head().status, 200);
    for _ in 0..16 {
        slow.take(size / 16);
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn draining_ends_idle_connections_and_finishes_the_others() {
    let backend = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(600));
        ok(b"{}")
    });
    let relay = Relay::before(backend.address);
    let mut idle = Client::connect(relay.address);
    assert_eq!(idle.ask(GET).status, 200);
    let mut busy = Client::connect(relay.address);
    busy.send(GET);
    backend.wait_for_open(1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(relay.metrics.connections(), 2);
    relay.drain();
    idle.assert_closed();
    let answer = busy.answer();
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    busy.assert_closed();
    for _ in 0..500 {
        if relay.metrics.connections() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} connections are counted", relay.metrics.connections());
}

#[test]
fn draining_answers_heads_that_are_on_their_way() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let (first, rest) = GET.split_at(20);
    let (mut fresh, mut begun, mut again) =
        (Client::connect(relay.address), Client::connect(relay.address), Client::connect(relay.address));
    let mut silent = Client::connect(relay.address);
    begun.send(first);
    assert_eq!(again.ask(GET).status, 200);
    again.send(first);
    // The relay has read what was sent so far.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(relay.metrics.connections(), 4);
    relay.drain();
    std::thread::sleep(Duration::from_millis(300));
    fresh.send(GET);
    begun.send(rest);
    again.send(rest);
    for mut client in [fresh, begun, again] {
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        client.assert_closed();
    }
    // Far sooner than by its time for a head, which is not waited for here.
    silent.assert_closed();
}

#[test]
fn connections_over_the_limit_are_closed_and_room_is_given_back() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "connections: {most: 2}");
    let mut two: Vec<_> = (0..2).map(|_| Client::connect(relay.address)).collect();
    for client in &mut two {
        assert_eq!(client.ask(GET).status, 200);
    }
    Client::connect(relay.address).assert_closed();
    drop(two);
    for _ in 0..500 {
        if relay.metrics.connections() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(Client::connect(relay.address).ask(GET).status, 200);
}
