//! The fuzz targets over their committed seeds, as they are and altered a little: a target that no longer compiles, or a promise that an old finding broke, fails here.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// Runs a target over each seed, over each with one byte changed or lost, and over pairs of seeds joined: a fixed few hundred inputs for each.
fn over_seeds(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("seeds").map(|entry| entry.expect("a seed").path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{name} has too few seeds");
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a seed")).collect();
    target(b"");
    for (n, seed) in seeds.iter().enumerate() {
        target(seed);
        let step = (seed.len() / 64).max(1);
        for at in (0..seed.len()).step_by(step) {
            let mut altered = seed.clone();
            altered[at] ^= 1 << (at % 8);
            target(&altered);
            altered.remove(at);
            target(&altered);
            target(&seed[..at]);
        }
        target(&[&seed[..], &seeds[(n + 1) % seeds.len()]].concat());
    }
}

macro_rules! seeds {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            over_seeds(stringify!($name), targets::$name);
        }
    )*};
}

seeds!(json_scan proxy_header framing_head framing_chunked wire_frames token_text token_open kms_answer rules_file path_normalise);
