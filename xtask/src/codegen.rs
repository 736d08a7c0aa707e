//! `cargo xtask codegen`: files that are made from the code and kept in the repository.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, root, run};

/// The pages of the plugins, the table of the metrics, and the OpenAPI document. Only their crates can make them, so a test of each
/// does: it checks them, or writes them if told so. Of the whole workspace, since a crate alone is built with other features of what
/// it depends on, and all of that anew.
const PAGES: [&str; 10] = [
    "test",
    "--quiet",
    "--locked",
    "--workspace",
    "--lib",
    "--bins",
    "--",
    "reference_pages_are_current",
    "metrics_page_is_current",
    "openapi_file_is_current",
];

/// The files made here, by their paths from the root, with their contents.
fn files() -> Vec<(PathBuf, String)> {
    vec![("docs/configuration.md".into(), milecastle_settings::reference::markdown())]
}

/// Writes the files, or with `--check` fails if any is not current.
pub(crate) fn codegen(args: &[&str]) -> Result<()> {
    match args {
        [] => write(),
        ["--check"] => match stale().as_slice() {
            [] => run(&mut cargo(&PAGES)),
            stale => bail!("{}", stale.join("\n")),
        },
        _ => bail!("codegen takes `--check` or nothing"),
    }
}

/// Which of the files made here are not current, one message each.
pub(crate) fn stale() -> Vec<String> {
    let current = |(path, content): &(PathBuf, String)| {
        std::fs::read_to_string(root().join(path)).is_ok_and(|found| found == *content)
    };
    let message = |(path, _): (PathBuf, String)| format!("{}: not current; run `cargo xtask codegen`", path.display());
    files().into_iter().filter(|file| !current(file)).map(message).collect()
}

fn write() -> Result<()> {
    for (path, content) in files() {
        let path = root().join(path);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    run(cargo(&PAGES).env("MILECASTLE_UPDATE", "1"))
}
