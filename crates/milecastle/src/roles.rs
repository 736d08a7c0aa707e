//! The roles of a cluster, a process each: `milecastle control`, `dashboard`, `dp-manager` and `gateway`.
//!
//! Each may be started before what it needs is there. It then waits, and says for what in its log and to probes.

use crate::cli::Serve;
use crate::config::known;
use crate::control::{ControlPlane, ControlSettings};
use crate::gateway::GatewayNode;
use crate::process::{self, Asked, Signals};
use anyhow::Context;
use milecastle_settings::{ControlFile, DashboardFile, DpManagerFile, File, GatewayFile, Replica, load};
use std::io::Write;

/// Threads of a control plane, whose work is waiting for others.
const CONTROL_THREADS: usize = 2;

/// Runs dashboard and DP manager until SIGTERM or SIGINT; a second one ends at once.
///
/// # Errors
/// Whatever keeps the process from starting, with what to do about it.
pub(crate) fn control(args: &Serve) -> anyhow::Result<()> {
    let file: ControlFile = load(args.config.as_deref(), &known())?;
    let parts = (Some(&file.dashboard), Some(&file.dp_manager));
    let work = serve(settings(&file.replica, parts));
    process::run(&file.log, &file.listeners(), CONTROL_THREADS, work)
}

/// Runs a dashboard until SIGTERM or SIGINT; a second one ends at once.
///
/// # Errors
/// As [`control`].
pub(crate) fn dashboard(args: &Serve) -> anyhow::Result<()> {
    let file: DashboardFile = load(args.config.as_deref(), &known())?;
    let work = serve(settings(&file.replica, (Some(&file.dashboard), None)));
    process::run(&file.log, &file.listeners(), CONTROL_THREADS, work)
}

/// Runs a DP manager until SIGTERM or SIGINT; a second one ends at once.
///
/// # Errors
/// As [`control`].
pub(crate) fn dp_manager(args: &Serve) -> anyhow::Result<()> {
    let file: DpManagerFile = load(args.config.as_deref(), &known())?;
    let work = serve(settings(&file.replica, (None, Some(&file.dp_manager))));
    process::run(&file.log, &file.listeners(), CONTROL_THREADS, work)
}

/// Runs a gateway node until SIGTERM or SIGINT, of which a second one ends at once; SIGUSR1 opens the log files anew.
///
/// # Errors
/// As [`control`].
pub(crate) fn gateway(args: &Serve) -> anyhow::Result<()> {
    let file: GatewayFile = load(args.config.as_deref(), &known())?;
    let threads = usize::from(file.gateway.background_threads);
    process::run(&file.log, &file.listeners(), threads, serve_gateway(&file.gateway))
}

type RoleSettings<'a> = (Option<&'a milecastle_settings::Dashboard>, Option<&'a milecastle_settings::DpManager>);

fn settings<'a>(replica: &'a Replica, (dashboard, dp_manager): RoleSettings<'a>) -> ControlSettings<'a> {
    ControlSettings { replica, sealing_key_file: None, dashboard, dp_manager }
}

async fn serve(settings: ControlSettings<'_>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let control = tokio::select! {
        started = ControlPlane::start(settings) => started?,
        () = signals.stop() => return Ok(()),
    };
    if let Some(key) = &control.new_admin_key {
        // Not to the log, which others read and keep.
        let text = format!("\nAdmin key (shown this once; only its hash is kept):\n\n  {key}\n\n");
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")?;
    }
    tracing::info!("ready");
    signals.stop().await;
    signals.see_out(control.stop()).await;
    Ok(())
}

async fn serve_gateway(settings: &milecastle_settings::Gateway) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let node = tokio::select! {
        started = GatewayNode::start(settings) => started?,
        () = signals.stop() => return Ok(()),
    };
    for (what, address) in node.addresses() {
        tracing::info!(%address, "{what} is served");
    }
    tracing::info!(revision = node.revision(), "ready");
    while signals.next().await == Asked::Reopen {
        node.reopen_logs();
    }
    signals.see_out(node.stop()).await;
    Ok(())
}
