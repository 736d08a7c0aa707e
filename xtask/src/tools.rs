//! Programs of others, installed at a fixed version so that they do not change under us.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::packages;
use crate::run::{cargo, root, run, target};

/// Path of a program that is a crate of its own name, at this version; installed under the target directory where it
/// is missing.
pub(crate) fn installed(name: &str, version: &str) -> Result<PathBuf> {
    let tools = target().join("tools");
    let program = tools.join("bin").join(name);
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).trim().ends_with(version)) {
        return Ok(program);
    }
    println!("installing {name} {version} into {}", tools.display());
    let version = format!("{name}@{version}");
    // Not optimised: such programs are built more often than they run for long.
    let mut install = cargo(&["install", "--debug", "--locked", "--quiet", "--force", &version, "--root"]);
    // A build directory of its own, removed afterwards: its objects are of no use to anybody.
    let build = tools.join("build");
    run(install.arg(&tools).arg("--target-dir").arg(&build))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(program)
}

/// Directory of the Node modules that the lock file in a folder of the repository names, under the target directory. They are installed
/// anew when it has changed.
pub(crate) fn node_modules(name: &str, folder: &str) -> Result<PathBuf> {
    const LOCK: &str = "package-lock.json";
    let from = root().join(folder);
    let wanted = std::fs::read(from.join(LOCK)).with_context(|| format!("cannot read {folder}/{LOCK}"))?;
    let directory = target().join("tools").join(name);
    let installed = directory.join("installed.json");
    if std::fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(directory);
    }
    println!("installing {folder}/{LOCK} into {}", directory.display());
    let npm = packages::program("npm", "npm")?;
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for file in ["package.json", LOCK] {
        std::fs::copy(from.join(file), directory.join(file)).with_context(|| format!("cannot copy {folder}/{file}"))?;
    }
    run(Command::new(npm).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory))?;
    std::fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))?;
    Ok(directory)
}

/// Directory of the programs of these Python packages, in a virtual environment of this name under the target directory. It is
/// made anew when the list of packages has changed.
pub(crate) fn python_programs(name: &str, requirements: &str) -> Result<PathBuf> {
    let list = root().join(requirements);
    let wanted = std::fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let environment = target().join("tools").join(name);
    let installed = environment.join("requirements.txt");
    let programs = environment.join("bin");
    if std::fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(programs);
    }
    println!("installing {requirements} into {}", environment.display());
    let python = packages::program("python3", "python3")?;
    let make = || run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&environment));
    make().or_else(|_| packages::install(&["python3-venv"]).and_then(|()| make()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"];
    run(Command::new(programs.join("python")).args(pip).arg(&list))?;
    std::fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))?;
    Ok(programs)
}
