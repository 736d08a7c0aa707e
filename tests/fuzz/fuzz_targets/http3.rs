#![no_main]

#[path = "../checks/http3.rs"]
mod http3;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http3::try_input(data));
