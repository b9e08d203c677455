//! libFuzzer's side of the target `snapshot`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::snapshot(input));
