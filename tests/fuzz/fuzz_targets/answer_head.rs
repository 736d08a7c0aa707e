#![no_main]

#[path = "../checks/answer_head.rs"]
mod answer_head;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answer_head::try_input(data));
