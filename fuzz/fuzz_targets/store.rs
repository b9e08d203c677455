//! libFuzzer's side of the target `store`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::store(input));
