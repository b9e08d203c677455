//! libFuzzer's side of the target `replies`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::replies(input));
