//! A client of TLS that is not ours.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// What `openssl s_client` tells of a handshake under a name or without one, and gets to read after it has sent this; `None` if there is
/// no handshake.
pub(crate) fn s_client(at: SocketAddr, name: Option<&str>, options: &[&str], sent: &str) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &at.to_string()]).args(options);
    match name {
        Some(name) => command.args(["-servername", name]),
        None => command.arg("-noservername"),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl is installed");
    // It may have failed before it has read anything.
    drop(child.stdin.take().unwrap().write_all(sent.as_bytes()));
    let output = child.wait_with_output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
