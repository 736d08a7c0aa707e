//! What a word that means nothing may have been meant to be.

/// The known word that `word` may have been meant to be: the one with the fewest letters added, left out, replaced or swapped,
/// unless these are more than one and a fifth of the longer word.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|known| (strsim::osa_distance(word, known), known));
    let (far, nearest) = distances.min()?;
    (far <= 1 + word.len().max(nearest.len()) / 5).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let check = |word, expected| assert_eq!(nearest(word, ["key-auth", "limit-count", "cors"]), expected, "{word}");
        check("key-auth", Some("key-auth"));
        check("keyauth", Some("key-auth"));
        check("kye-auth", Some("key-auth"));
        check("limit_coutn", Some("limit-count"));
        check("cros", Some("cors"));
        check("gzip", None);
        check("", None);
        assert_eq!(nearest("cors", []), None);
    }
}
