//! libFuzzer's side of the target `messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawk_fuzz::messages(input));
