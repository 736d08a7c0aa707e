//! `cargo xtask codegen`: files that are made from the code and kept in the repository.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::run::root;

/// Every generated file, by its path from the root, with its content.
fn files() -> Vec<(PathBuf, String)> {
    vec![("docs/configuration.md".into(), milecastle_settings::reference::markdown())]
}

/// Writes the files, or with `--check` fails if any is not current.
pub(crate) fn codegen(args: &[&str]) -> Result<()> {
    match args {
        [] => write(),
        ["--check"] => match stale().as_slice() {
            [] => Ok(()),
            stale => bail!("{}", stale.join("\n")),
        },
        _ => bail!("codegen takes `--check` or nothing"),
    }
}

/// What is not current, one message a file.
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
    Ok(())
}
