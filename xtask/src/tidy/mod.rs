//! `cargo xtask tidy`: rules that no compiler checks.
//!
//! Each check returns its faults as lines `path: what is wrong; what to do`; all of them are shown at once.

mod files;
mod fuzz;
mod layers;
mod plugins;
mod rules;
mod sql;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::codegen;
use crate::run::{output, root};

/// A file of the repository.
pub(crate) struct SourceFile {
    /// Path from the root.
    path: PathBuf,
    text: String,
}

/// Runs every check.
pub(crate) fn tidy() -> Result<()> {
    let files = sources()?;
    let mut faults = files::check(&files);
    faults.extend(fuzz::check(&files));
    faults.extend(layers::check(&files)?);
    faults.extend(plugins::check(&files));
    faults.extend(rules::check(&files));
    faults.extend(sql::check(&files));
    faults.extend(codegen::stale());
    if faults.is_empty() {
        println!("tidy: {} files", files.len());
        return Ok(());
    }
    bail!("tidy found {} faults:\n{}", faults.len(), faults.join("\n"));
}

/// All text files that are in the repository or would be added to it.
fn sources() -> Result<Vec<SourceFile>> {
    let root = root();
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(&root);
    let mut files = Vec::new();
    for name in output(&mut list)?.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        // Deleted, not yet committed.
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path: name.into(), text });
        }
    }
    Ok(files)
}

impl SourceFile {
    /// Whether it is Rust.
    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|e| e == "rs")
    }

    /// Whether all of it is tests: under a `tests` folder, or a module named so.
    fn is_test(&self) -> bool {
        self.path.iter().any(|part| part == "tests") || self.path.file_name() == Some("tests.rs".as_ref())
    }

    /// Whether it lies in this folder.
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(Path::new(folder))
    }
}
