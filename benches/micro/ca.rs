//! What interception costs before the handshake: a certificate minted for a host, and one that is kept.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use relay::tls::ca::{Authority, fresh};

fn ca(criterion: &mut Criterion) {
    let made = fresh(Duration::from_secs(86_400), &[]).expect("an authority");
    let authority = Authority::read(&made.certificate, &made.key).expect("an authority");
    let now = SystemTime::now();
    criterion
        .bench_function("ca/mint", |b| b.iter(|| authority.mint(black_box("api.pay.example"), now).expect("a leaf")));
    let mut n = 0u64;
    criterion.bench_function("ca/server of a new host", |b| {
        b.iter(|| {
            n += 1;
            authority.server(&format!("h{n}.pay.example")).expect("a leaf")
        });
    });
    criterion.bench_function("ca/server of a known host", |b| {
        b.iter(|| authority.server(black_box("api.pay.example")).expect("a leaf"));
    });
}

criterion_group!(benches, ca);
criterion_main!(benches);
