//! The seeds of the fuzz targets (docs/fuzzing.md), among them every input that has ever shown a fault.

#[path = "../../../tests/fuzz/checks/canonical_path.rs"]
mod canonical_path;
#[path = "../../../tests/fuzz/checks/expression.rs"]
mod expression;
#[path = "../../../tests/fuzz/checks/seeds.rs"]
mod seeds;

#[test]
fn seeds_of_canonical_path_hold() {
    seeds::replay("canonical_path", canonical_path::try_input);
}

#[test]
fn seeds_of_expression_hold() {
    seeds::replay("expression", expression::try_input);
}
