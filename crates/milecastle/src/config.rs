//! Configuration files, checked against what this binary holds.

use milecastle_pki::GroupToken;
use milecastle_settings::Known;
use std::sync::LazyLock;

static PLUGINS: LazyLock<Vec<&str>> = LazyLock::new(|| milecastle_plugins::ALL.iter().map(|def| def.name).collect());

/// What a process checks its configuration against when it starts.
pub(crate) fn known() -> Known<'static> {
    let group_token = |text: &str| text.parse::<GroupToken>().map(drop).map_err(|error| error.to_string());
    Known { plugins: &PLUGINS, group_token, secret_files: false }
}

/// What `milecastle check` checks it against: also the files that hold secrets.
pub(crate) fn known_thoroughly() -> Known<'static> {
    Known { secret_files: true, ..known() }
}
