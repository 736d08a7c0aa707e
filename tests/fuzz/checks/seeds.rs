//! Replays the seeds of a target; the ordinary tests of the crates do so.

/// Tries every seed in `seeds/TARGET`.
pub(crate) fn replay(target: &str, try_input: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut tried = 0;
    for entry in std::fs::read_dir(&folder).expect("a target has seeds") {
        let path = entry.expect("the folder can be listed").path();
        // Shown only if the test fails.
        eprintln!("{}", path.display());
        try_input(&std::fs::read(&path).expect("a seed can be read"));
        tried += 1;
    }
    assert!(tried > 0, "{} is empty", folder.display());
}
