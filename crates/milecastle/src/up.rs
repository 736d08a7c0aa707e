//! `milecastle up`: everything in one process.

use crate::cli::Up;
use crate::config::known;
use crate::control::{ControlPlane, ControlSettings};
use crate::data_dir::DataDir;
use crate::gateway::{GatewayNode, Origin};
use crate::process::{self, Asked, Signals};
use crate::{banner, demo, ports};
use anyhow::Context;
use milecastle_control::dpm::{cluster_ca, mint_group_token};
use milecastle_pki::GroupToken;
use milecastle_settings::{ENVIRONMENT_PREFIX, File, UpFile, load_with};
use milecastle_store::{Actor, DEFAULT_GROUP, Store};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Runs until SIGTERM or SIGINT, of which a second one ends at once; SIGUSR1 opens the log files anew.
///
/// # Errors
/// Whatever keeps the process from starting, with what to do about it.
pub(crate) fn run(args: &Up) -> anyhow::Result<()> {
    let settings = load(args.config.as_deref(), args.data.as_deref())?;
    settings.log.init()?;
    // Who has the directory has most likely the ports too, and is the better thing to hear of. A new one is made only once
    // nothing else is in the way.
    let take = || DataDir::take(&settings.data_dir, "--data");
    let taken = settings.data_dir.is_dir().then(take).transpose()?;
    ports::probe(&settings.listeners())?;
    let _taken = taken.map_or_else(take, Ok)?;
    process::runtime(settings.gateway.background_threads.into())?.block_on(serve(args, settings))
}

/// The settings in the file `config`, with the data directory that the command line names, if it does.
///
/// # Errors
/// All faults of the file, each with its line, key and what was expected.
pub(crate) fn load(config: Option<&Path>, data: Option<&Path>) -> anyhow::Result<UpFile> {
    let dir = data.iter().map(|dir| (format!("{ENVIRONMENT_PREFIX}DATA_DIR"), dir.display().to_string()));
    Ok(load_with(config, &known(), dir)?)
}

/// Where the sealing key is made and kept, unless the settings name another one.
pub(crate) fn sealing_key_file(settings: &UpFile) -> PathBuf {
    settings.data_dir.join("sealing-key")
}

async fn serve(args: &Up, mut settings: UpFile) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let demo = match args.no_demo {
        true => None,
        false => Some(demo::start().await.context("cannot start the demo upstream")?),
    };
    let control = ControlPlane::start(ControlSettings {
        replica: &settings.replica,
        sealing_key_file: Some(sealing_key_file(&settings)),
        dashboard: Some(&settings.dashboard),
        dp_manager: Some(&settings.dp_manager),
    })
    .await?;
    if settings.gateway.control_plane.endpoints.is_empty() {
        let address = reachable(control.dp_manager_address().context("the DP manager of this process serves")?);
        settings.gateway.control_plane.endpoints = vec![format!("https://{address}")];
        let token = own_token(&control.store, &settings.data_dir).await?;
        settings.gateway.control_plane.group_token_file = Some(token);
    }
    let gateway = tokio::select! {
        started = GatewayNode::start(&settings.gateway, Origin::Own) => started?,
        () = signals.stop() => return Ok(()),
    };
    banner::print(&control, &gateway, demo, &settings.data_dir)?;
    let logs = gateway.log_files();
    loop {
        match signals.next().await {
            Asked::Stop => break,
            Asked::Reopen => logs.reopen(),
            Asked::Upgrade => tracing::warn!(
                "SIGUSR2: `milecastle up` holds the control plane as well and cannot hand it over; run `milecastle gateway` for that"
            ),
        }
    }
    let ending = async {
        gateway.stop().await;
        control.stop().await;
    };
    signals.see_out(Box::pin(ending), Some(&logs)).await;
    Ok(())
}

/// The address by which this host reaches a listener of its own.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// The file with the token by which this process's own gateway joins; minted on the first start, and again when the
/// cluster's CA is another one or the store knows no such token, as after the database was replaced.
async fn own_token(store: &Store, data_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = data_dir.join("group-token");
    let authority = cluster_ca(store).await?.fingerprint();
    let kept = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<GroupToken>().ok());
    if let Some(token) = kept.filter(|token| token.ca() == authority)
        && store.token_find(&token.hash().to_bytes()).await?.is_some()
    {
        return Ok(path);
    }
    let token =
        mint_group_token(store.by(&Actor::system()), DEFAULT_GROUP, "the gateway of `milecastle up`", None).await?;
    write_secret(&path, &token.expose()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Writes a file for its owner only, in place of the one that is there.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    if new.exists() {
        std::fs::remove_file(&new)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}
