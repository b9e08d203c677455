//! libFuzzer's side of the target `sessions`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::sessions(input));
