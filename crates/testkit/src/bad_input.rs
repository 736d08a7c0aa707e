//! Writes that the Admin API refuses on either database, in process and as the real binary: a line, the status, and what is said.

/// What is there before: a consumer whose key is taken.
pub const BEFORE: &str = r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"taken"}}}"#;

/// A line as [`crate::Call::admin`] reads it, the status of its answer, and its whole `error_msg`.
pub const REFUSED: [(&str, u16, &str); 12] = [
    (
        r#"PUT /routes/1 {"uri":1,"plugins":{}}"#,
        400,
        r#"invalid configuration: property "uri" validation failed: wrong type: expected string, got number"#,
    ),
    (
        r#"PUT /routes/1 {"uri":"/a","nope":1,"plugins":{}}"#,
        400,
        "invalid configuration: additional properties forbidden, found nope",
    ),
    (r#"PUT /routes/1 {"uri":"/a","plugins":{"nope":{}}}"#, 400, "unknown plugin [nope]"),
    (
        r#"PUT /routes/1 {"uri":"/a","plugins":{"limit_count":{}}}"#,
        400,
        "unknown plugin [limit_count]; did you mean [limit-count]?",
    ),
    (
        r#"PUT /routes/1 {"uri":"/a","upstream_id":"9"}"#,
        400,
        "failed to fetch upstream info by upstream id [9], response code: 404",
    ),
    (
        r#"PUT /routes/1 {"uri":"/a","service_id":"9"}"#,
        400,
        "failed to fetch service info by service id [9], response code: 404",
    ),
    (
        r#"PUT /consumers {"username":"zoe","plugins":{"key-auth":{"key":"taken"}}}"#,
        400,
        "duplicate key of plugin key-auth found with consumer: jack",
    ),
    (r#"PUT /consumers/nobody/credentials/c {"plugins":{"key-auth":{"key":"k"}}}"#, 404, "consumer not found"),
    (r#"PUT /routes {"uri":"/a","plugins":{}}"#, 400, "missing route id"),
    ("PUT /routes/1", 400, "missing configurations"),
    (r#"PUT /routes/1?gateway_group_id=nope {"uri":"/a","plugins":{}}"#, 404, "gateway group [nope] not found"),
    ("PUT /nope/1 {}", 404, "Unsupported resource type: nope"),
];

/// Those that are long, or whose `error_msg` is free text, of which a part is given.
pub fn refused_in_free_text() -> Vec<(String, u16, &'static str)> {
    let junk = format!("-----BEGIN CERTIFICATE-----\\n{}\\n-----END CERTIFICATE-----", "A".repeat(200));
    let id = r#"property "id" validation failed: "#;
    let count = r#"failed to check the configuration of plugin limit-count err: property "count" validation failed: "#;
    vec![
        (format!("PUT /upstreams/1 {}", " ".repeat(2 << 20)), 400, "is greater than the maximum size 1572864 allowed"),
        (format!(r#"PUT /ssls/1 {{"sni":"a.b","cert":"{junk}","key":"{junk}"}}"#), 400, "failed to parse cert: "),
        (r#"PUT /routes/1 {"uri":"/a","plugins":{"limit-count":{"count":-1}}}"#.to_owned(), 400, count),
        (r#"PUT /routes/1 {"uri":"/a",}"#.to_owned(), 400, "invalid request body: "),
        (format!("PUT /routes/1 {}", "[".repeat(100_000)), 400, "invalid request body: "),
        (r#"PUT /upstreams/bad!id {"nodes":{}}"#.to_owned(), 400, id),
        (r#"PUT /upstreams/a%00b {"nodes":{}}"#.to_owned(), 400, id),
        (r#"PUT /upstreams/1?api_key=wrong {"nodes":{}}"#.to_owned(), 401, "failed to check token"),
    ]
}
