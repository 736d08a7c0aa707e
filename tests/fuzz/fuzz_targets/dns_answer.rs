#![no_main]

#[path = "../checks/dns_answer.rs"]
mod dns_answer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_answer::try_input(data));
