//! libFuzzer's side of the target `json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::json(input));
