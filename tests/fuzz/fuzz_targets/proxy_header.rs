#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| e3_fuzz::proxy_header(data));
