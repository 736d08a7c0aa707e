//! What `milecastle up` says once it serves.

use crate::control::ControlPlane;
use crate::demo;
use crate::gateway::GatewayNode;
use anyhow::Context;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// Prints addresses, and what to try: with the first Admin key, if this start made it.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(
    control: &ControlPlane,
    gateway: &GatewayNode,
    demo: Option<SocketAddr>,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let text = text(control, gateway, demo, data_dir).context("cannot format the banner")?;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

fn text(
    control: &ControlPlane,
    gateway: &GatewayNode,
    demo: Option<SocketAddr>,
    data_dir: &Path,
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "\nMilecastle {} · revision {} · data in {}",
        env!("CARGO_PKG_VERSION"),
        gateway.revision(),
        data_dir.display()
    )?;
    writeln!(out)?;
    let dashboard = control.dashboard_address();
    let admin = control.admin_address().or(dashboard);
    let mut line = |what: &str, address: SocketAddr| writeln!(out, "  {what:<12} {address}");
    for (what, address) in gateway.addresses() {
        line(what, address)?;
    }
    let control_plane = [("Admin API", admin), ("dashboard", dashboard), ("DP manager", control.dp_manager_address())];
    for (what, address) in control_plane.into_iter().chain([("demo", demo)]) {
        if let Some(address) = address {
            line(what, address)?;
        }
    }
    let elsewhere = demo.filter(|demo| *demo != demo::ADDRESS);
    if let Some(demo) = elsewhere {
        let usual = demo::ADDRESS;
        writeln!(out, "\n{usual} is not free, so the demo upstream is at {demo}:")?;
        writeln!(out, "where a guide says {usual}, take {demo}.")?;
    }
    let http = gateway.addresses().into_iter().find_map(|(what, address)| (what == "HTTP").then_some(address));
    if let (Some(demo), Some(http), Some(admin)) = (demo, http, admin) {
        let key = control.new_admin_key.as_deref().unwrap_or("YOUR-ADMIN-KEY");
        let port = http.port();
        match elsewhere {
            Some(demo) => writeln!(out, "\nTry (the demo upstream is at {demo} this time):\n")?,
            None => writeln!(out, "\nTry:\n")?,
        }
        writeln!(
            out,
            "  curl -i http://127.0.0.1:{}/apisix/admin/routes/1 -X PUT -H 'X-API-KEY: {key}' \\",
            admin.port()
        )?;
        writeln!(out, "    -d '{{\"uri\":\"/hello\",\"upstream\":{{\"nodes\":{{\"{demo}\":1}}}}}}'")?;
        writeln!(out, "  curl -i http://127.0.0.1:{port}/hello")?;
        writeln!(out, "  curl -i http://127.0.0.1:{port}/nothing-here")?;
    }
    writeln!(out, "\nCtrl-C stops it once requests in flight have ended; a second one stops it at once.")?;
    writeln!(out)?;
    Ok(out)
}
