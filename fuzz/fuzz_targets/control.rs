//! libFuzzer's side of the target `control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::control(input));
