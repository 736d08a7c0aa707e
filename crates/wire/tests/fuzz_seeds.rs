//! The seeds of the fuzz targets (docs/fuzzing.md), among them every input that has ever shown a fault.

#[path = "../../../tests/fuzz/checks/seeds.rs"]
mod seeds;
#[path = "../../../tests/fuzz/checks/stream.rs"]
mod stream;

#[test]
fn seeds_of_stream_hold() {
    seeds::replay("stream", stream::try_input);
}
