//! The roles of a cluster, a process each: `milecastle control`, `dashboard`, `dp-manager` and `gateway`.
//!
//! Each may be started before what it needs is there. It then waits, and says for what in its log and to probes.

use crate::cli::{Gateway, Serve};
use crate::config::known;
use crate::control::{ControlPlane, ControlSettings};
use crate::gateway::{GatewayNode, LogFiles, Origin};
use crate::process::{self, Asked, Signals};
use crate::successor::Program;
use crate::{ports, supervisor};
use milecastle_proxy::handover::HandedOver;
use milecastle_settings::{ControlFile, DashboardFile, DpManagerFile, File, GatewayFile, Replica, load};
use std::pin::pin;
use tokio::sync::oneshot;

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

/// Runs a gateway node until SIGTERM or SIGINT, of which a second one ends at once, or until another process has taken its place
/// and its connections have ended. SIGUSR1 opens the log files anew, SIGUSR2 starts a process that takes its place.
///
/// # Errors
/// As [`control`]; or there is no process to take over from, or it refuses.
pub(crate) fn gateway(args: &Gateway) -> anyhow::Result<()> {
    let program = Program::of_this_process();
    let file: GatewayFile = load(args.serve.config.as_deref(), &known())?;
    let threads = usize::from(file.gateway.background_threads);
    // What is inherited is no port that is taken: which that is turns out within.
    process::run(&file.log, &[], threads, serve_gateway(&file, args.upgrade, &program))
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
    tracing::info!("ready");
    signals.stop().await;
    Box::pin(signals.see_out(control.stop(), None)).await;
    Ok(())
}

async fn serve_gateway(file: &GatewayFile, upgrade: bool, program: &Program) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let settings = &file.gateway;
    let starting = async {
        let origin = Origin::find(settings, upgrade).await?;
        let listeners = file.listeners().into_iter().filter(|one| !origin.has(&one.key, one.address));
        ports::probe(&listeners.collect::<Vec<_>>())?;
        GatewayNode::start(settings, origin).await
    };
    let mut node = tokio::select! {
        started = starting => started?,
        () = signals.stop() => return Ok(()),
    };
    node.offer();
    for (what, address) in node.addresses() {
        tracing::info!(%address, "{what} is served");
    }
    tracing::info!(revision = node.revision(), "ready");
    supervisor::ready();
    let logs = node.log_files();
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = program.successor_ended() => {
                // This one serves still.
                supervisor::ready();
                continue;
            }
            handed = node.handed_over() => {
                see_replaced(&mut signals, node, handed, &logs).await;
                return Ok(());
            }
        };
        match asked {
            Asked::Stop => break,
            Asked::Reopen => logs.reopen(),
            Asked::Upgrade => {
                supervisor::reloading();
                program.start_successor();
            }
        }
    }
    supervisor::stopping();
    signals.see_out(node.stop(), Some(&logs)).await;
    Ok(())
}

/// Lets a process end that another one has replaced. Told to stop, it hurries; told again, it ends at once.
async fn see_replaced(signals: &mut Signals, node: GatewayNode, handed: HandedOver, logs: &LogFiles) {
    let (hurry, hurried) = oneshot::channel();
    let mut leaving = pin!(node.leave(handed, hurried));
    tokio::select! {
        () = &mut leaving => return tracing::info!("all connections have ended; stopped"),
        () = signals.stop_with(Some(logs)) => {}
    }
    // It hears of it, or has ended.
    hurry.send(()).ok();
    signals.see_out(leaving, Some(logs)).await;
}
