//! See `token` in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| taffrail_fuzz::token(data));
