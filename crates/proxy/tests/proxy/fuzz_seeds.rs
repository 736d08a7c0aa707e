//! The seeds of the fuzz targets (docs/fuzzing.md), among them every input that has ever shown a fault.

#[path = "../../../../tests/fuzz/checks/answer_head.rs"]
mod answer_head;
#[path = "../../../../tests/fuzz/checks/chunks.rs"]
mod chunks;
#[path = "../../../../tests/fuzz/checks/dns_answer.rs"]
mod dns_answer;
#[path = "../../../../tests/fuzz/checks/http2.rs"]
mod http2;
#[path = "../../../../tests/fuzz/checks/http3.rs"]
mod http3;
#[path = "../../../../tests/fuzz/checks/ocsp_response.rs"]
mod ocsp_response;
#[path = "../../../../tests/fuzz/checks/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "../../../../tests/fuzz/checks/request_head.rs"]
mod request_head;
#[path = "../../../../tests/fuzz/checks/seeds.rs"]
mod seeds;

#[test]
fn seeds_of_answer_head_hold() {
    seeds::replay("answer_head", answer_head::try_input);
}

#[test]
fn seeds_of_chunks_hold() {
    seeds::replay("chunks", chunks::try_input);
}

#[test]
fn seeds_of_dns_answer_hold() {
    seeds::replay("dns_answer", dns_answer::try_input);
}

#[test]
fn seeds_of_http2_hold() {
    seeds::replay("http2", http2::try_input);
}

#[test]
fn seeds_of_http3_hold() {
    seeds::replay("http3", http3::try_input);
}

#[test]
fn seeds_of_ocsp_response_hold() {
    seeds::replay("ocsp_response", ocsp_response::try_input);
}

#[test]
fn seeds_of_request_head_hold() {
    seeds::replay("request_head", request_head::try_input);
}

#[test]
fn seeds_of_proxy_protocol_hold() {
    seeds::replay("proxy_protocol", proxy_protocol::try_input);
}
