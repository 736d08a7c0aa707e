//! Variables of a session (`docs/spec/plugins/_variables.md`): those of the reference's stream subsystem that mean
//! something here.

use super::cx::{StreamCx, Transport};
use crate::cx::{Attempt, time, tls_var};
use milecastle_matching::{Family, Lookup, Var, VarName};
use std::fmt::{Display, Write};
use std::time::SystemTime;

impl Lookup for StreamCx {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        if let Some((_, given)) = self.overrides.iter().find(|(known, _)| *known == name.as_str()) {
            return Some(Var::from(given.as_str()));
        }
        match name.family() {
            Family::Other => self.plain(name.key()),
            // All other families are of HTTP.
            _ => None,
        }
    }
}

impl StreamCx {
    fn plain(&self, name: &str) -> Option<Var<'_>> {
        let route = self.route.as_deref();
        let value = match name {
            "remote_addr" => self.client.ip().to_string().into(),
            "remote_port" => self.client.port().to_string().into(),
            "realip_remote_addr" => self.peer.ip().to_string().into(),
            "realip_remote_port" => self.peer.port().to_string().into(),
            "server_addr" => self.local.ip().to_string().into(),
            "server_port" => self.local.port().to_string().into(),
            "stream_listen_addr" => self.listen.to_string().into(),
            "protocol" => match self.transport {
                Transport::Tcp => "TCP",
                Transport::Udp => "UDP",
            }
            .into(),
            "connection" => self.serial.to_string().into(),
            "route_id" => Var::from(&*route?.id),
            "route_name" => Var::from(route?.name.as_deref()?),
            "service_id" => Var::from(route?.service_id.as_deref()?),
            "service_name" => Var::from(route?.service_name.as_deref()?),
            "status" => self.status.to_string().into(),
            "bytes_received" => self.traffic.received.to_string().into(),
            "bytes_sent" => self.traffic.sent.to_string().into(),
            "session_time" => time::seconds(self.timing.total()).into(),
            "upstream_bytes_sent" => self.contacted(self.traffic.upstream_sent)?,
            "upstream_bytes_received" => self.contacted(self.traffic.upstream_received)?,
            "upstream_addr" => return self.tries(|attempt| attempt.node.clone()),
            "upstream_connect_time" => return self.tries(|attempt| time::seconds(attempt.connect)),
            "upstream_first_byte_time" => {
                return self.tries(|attempt| attempt.header.map_or_else(|| "-".to_owned(), time::seconds));
            }
            "upstream_session_time" => return self.tries(|attempt| time::seconds(attempt.response)),
            "upstream_unresolved_host" => Var::from(&**self.upstream.unresolved_host()?),
            "balancer_ip" => self.upstream.last()?.addr.ip().to_string().into(),
            "balancer_port" => self.upstream.last()?.addr.port().to_string().into(),
            "hostname" => Var::from(&*self.view.as_ref()?.node().hostname),
            "pid" => std::process::id().to_string().into(),
            "msec" => time::seconds(time::since_epoch(SystemTime::now())).into(),
            "time_iso8601" => time::iso8601(SystemTime::now()).into(),
            "time_local" => time::common_log(SystemTime::now()).into(),
            _ if name.starts_with("proxy_protocol_") => return self.proxied.as_ref()?.var(name),
            _ => return tls_var(self.tls.as_ref()?, name),
        };
        Some(value)
    }

    fn contacted(&self, bytes: u64) -> Option<Var<'_>> {
        self.upstream.last().map(|_| bytes.to_string().into())
    }

    /// One item for each try, in order; no value if there was none.
    fn tries<T: Display>(&self, item: impl Fn(&Attempt) -> T) -> Option<Var<'_>> {
        let mut joined = String::new();
        for attempt in self.upstream.attempts() {
            let comma = if joined.is_empty() { "" } else { ", " };
            write!(joined, "{comma}{}", item(attempt)).expect("writing to a string cannot fail");
        }
        (!joined.is_empty()).then(|| joined.into())
    }
}
