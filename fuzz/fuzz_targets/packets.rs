//! libFuzzer's side of the target `packets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::packets(input));
