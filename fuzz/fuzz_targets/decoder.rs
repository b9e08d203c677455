//! libFuzzer's side of the target `decoder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::decoder(input));
