//! libFuzzer's side of the target `streams`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::streams(input));
