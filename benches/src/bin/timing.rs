//! Whether the time in which a forged token is refused says where its first wrong byte is: of the commitment, and of the tag.
//!
//! As dudect does it (Reparaz, Balasch, Verbauwhede 2017): two classes, the wrong byte first or last, in a random order; times over a percentile are cropped, since they are the
//! scheduler's; Welch's t over what is left. |t| of 4.5 or more at any crop, and the times are told apart: exit code 1. Tags of suite 2 are compared by the same code as those of
//! suite 1.
//!
//! ```text
//! cargo build --release -p e3-benches --bin timing && nice -n 19 target/release/timing [--self-check] [samples of a class]
//! ```
//!
//! `--self-check` measures a comparison that stops at the first wrong byte, in the same way: its exit code is 0 only if that is found out.

use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use e3_enclave::envelope::{Authentic, SealTime, Sealer};
use e3_enclave::keyring::{Keyring, RootKey, Store};
use e3_enclave::policy::{AppRules, Asking, Moment, Policy, RoleRules, Subject, Verb};
use e3_enclave::session::Session;
use e3_wire::{App, Context, Role, TokenText, ValueType, token};

const SAMPLES: usize = 1_000_000;
/// Where dudect's authors put the end of doubt.
const LIMIT: f64 = 4.5;
/// Forged tokens that are made before they are measured.
const BATCH: usize = 64;
const WARM_UP: usize = 20_000;
/// Of the times of both classes together, those up to this percentile are looked at.
const CROPS: [f64; 6] = [0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

const ROLE: &str = "card-number";
const VALUE: &[u8] = b"4111111111111111";
/// Offsets in the sealed binary (SPEC.md, section 4).
const COMMIT: std::ops::Range<usize> = 33..65;
const TAG: usize = 16;

/// What is wrong with the forged tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Commit,
    Tag,
}

/// A small generator (splitmix64): the order of the classes has to be unpredictable to the processor, not to an attacker.
struct Order(u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// A forged token of a class, and what it was made of.
struct Slot {
    class: usize,
    genuine: Vec<u8>,
    binary: Vec<u8>,
    text: Vec<u8>,
}

struct Bench {
    keyring: Keyring,
    app: App,
    policy: Policy,
}

impl Bench {
    fn new(folder: &Path) -> Self {
        let app = App::parse("shop").expect("an app");
        let role = Role::parse(ROLE).expect("a role");
        let root = folder.join("root.key");
        std::fs::write(&root, "5a".repeat(32)).expect("a root key");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let store = Store::new(folder.join("keyring"), RootKey::from_file(&root).expect("a root key"));
        store.create().expect("a keyring");
        let keyring = store.update(|k| k.create_app(app).map(Some)).expect("an app's keys").0;
        let rules = AppRules::new([(role, RoleRules::default())].into(), u32::MAX);
        let policy = Policy::declared([(app, rules)].into(), false);
        Self { keyring, app, policy }
    }

    /// Times of both classes in nanoseconds, drawn in a random order.
    fn measure(&self, target: Target, samples: usize, leaky: bool) -> [Vec<u32>; 2] {
        let seed =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let mut order = Order(seed);
        let role = Role::parse(ROLE).expect("a role");
        let (context, session) = (Context::default(), Session::plain());
        let asking = Asking { proven: session.proven(), app: self.app, context: &context, epoch: 1 };
        let asker = self.policy.asker(&asking, Moment::now().expect("a clock")).expect("an asker");
        let allowed = asker.decide(Verb::Seal, role, Subject::Role).result.expect("allowed");
        let mut sealer = Sealer::new(&self.keyring, SealTime::now().expect("a clock"));
        let mut seal = |text: &mut Vec<u8>| {
            text.clear();
            sealer.seal(&allowed, ValueType::String, VALUE, text).expect("sealed");
            TokenText::parse(text).expect("a token").decode().expect("a binary")
        };
        let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
        // All have one length.
        let length = seal(&mut Vec::new()).len();
        let part = match target {
            Target::Commit => COMMIT,
            Target::Tag => length - TAG..length,
        };
        let places = [part.start, part.end - 1];
        // Sealed and forged anew each time, a batch ahead, in places that have nothing to do with their class. With a few fixed tokens the last byte of a tag is one of few where the
        // first is wrong, and any where it is wrong itself: that alone can be told by |t| of 24, with the first wrong byte at one place in both classes.
        let slot = || Slot { class: 0, genuine: Vec::new(), binary: Vec::new(), text: Vec::with_capacity(2 * length) };
        let mut batch: Vec<Slot> = std::iter::repeat_with(slot).take(BATCH).collect();
        let mut warm_up = WARM_UP;
        while times.iter().any(|t| t.len() < samples) {
            for slot in &mut batch {
                let drawn = order.next();
                slot.class = (drawn & 1) as usize;
                slot.genuine = seal(&mut slot.text);
                slot.binary.clone_from(&slot.genuine);
                slot.binary[places[slot.class]] ^= 1 + (drawn >> 32) as u8 % 255;
                slot.text.clear();
                token::write(role, ValueType::String, &slot.binary, &mut slot.text);
            }
            for slot in &batch {
                let (binary, genuine) = (&slot.binary[COMMIT], &slot.genuine[COMMIT]);
                let begun = Instant::now();
                let refused = Authentic::read(&self.keyring, self.app, black_box(&slot.text)).is_err();
                let same = leaky && stops_at_the_first_wrong_byte(binary, genuine);
                let took = begun.elapsed();
                assert!(black_box(refused) && !black_box(same), "a forged token opened");
                if warm_up > 0 {
                    warm_up -= 1;
                } else if times[slot.class].len() < samples {
                    times[slot.class].push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
                }
            }
        }
        times
    }
}

/// What no comparison of secrets may be.
#[inline(never)]
fn stops_at_the_first_wrong_byte(a: &[u8], b: &[u8]) -> bool {
    for (a, b) in a.iter().zip(b) {
        if black_box(*a) != black_box(*b) {
            return false;
        }
    }
    true
}

/// Welch's t of what both classes have up to a limit, and how much of them that is.
fn welch(times: &[Vec<u32>; 2], limit: u32) -> (f64, usize) {
    let part = |class: &[u32]| {
        let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for time in class.iter().filter(|time| **time <= limit) {
            // Welford's way: the sums of a million squares would lose digits.
            let time = f64::from(*time);
            n += 1.0;
            let delta = time - mean;
            mean += delta / n;
            squares += delta * (time - mean);
        }
        (n, mean, squares / f64::max(n - 1.0, 1.0))
    };
    let ((n0, mean0, variance0), (n1, mean1, variance1)) = (part(&times[0]), part(&times[1]));
    let spread = (variance0 / n0 + variance1 / n1).sqrt();
    let t = if spread > 0.0 { (mean0 - mean1) / spread } else { 0.0 };
    (t, (n0 + n1) as usize)
}

/// The largest |t| of all crops; prints each.
fn judge(name: &str, times: &[Vec<u32>; 2]) -> f64 {
    let mut all: Vec<u32> = times.iter().flatten().copied().collect();
    all.sort_unstable();
    let median = all[all.len() / 2];
    println!("{name}: {} times of each class, median {median} ns", times[0].len());
    let mut largest = 0.0;
    for crop in CROPS {
        let at = ((all.len() as f64 * crop) as usize).clamp(1, all.len()) - 1;
        let (t, kept) = welch(times, all[at]);
        println!("  up to {:>3.0} % ({:>8} ns, {kept:>8} times): |t| = {:.2}", crop * 100.0, all[at], t.abs());
        largest = f64::max(largest, t.abs());
    }
    largest
}

fn main() -> ExitCode {
    let mut samples = SAMPLES;
    let mut self_check = false;
    for argument in std::env::args().skip(1) {
        match (argument.as_str(), argument.parse()) {
            ("--self-check", _) => self_check = true,
            (_, Ok(count)) if count >= 1000 => samples = count,
            _ => {
                eprintln!("timing [--self-check] [samples of a class, 1000 or more]");
                return ExitCode::from(2);
            }
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(folder.path());
    if self_check {
        let t = judge("a comparison that leaks", &bench.measure(Target::Commit, samples, true));
        let seen = t >= LIMIT;
        println!("self-check: |t| = {t:.2}, {}", if seen { "the leak is found out" } else { "THE LEAK IS NOT SEEN" });
        return if seen { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut told_apart = false;
    for (name, target) in [("commitment", Target::Commit), ("tag", Target::Tag)] {
        let t = judge(name, &bench.measure(target, samples, false));
        told_apart |= t >= LIMIT;
        println!("{name}: |t| = {t:.2}, {} {LIMIT}", if t < LIMIT { "below" } else { "NOT BELOW" });
    }
    if told_apart { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
