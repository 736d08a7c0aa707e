#![no_main]

#[path = "../checks/ocsp_response.rs"]
mod ocsp_response;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocsp_response::try_input(data));
