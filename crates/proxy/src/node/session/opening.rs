//! How a stream comes about: the node's identity, the connection, and the first message.

use super::{Ended, Session};
use crate::node::identity::IdentityError;
use crate::node::last_good::Origin;
use crate::node::{Alarm, Member};
use milecastle_model::Kind;
use milecastle_pki::NodeKeys;
use milecastle_pki::transport::connect;
use milecastle_wire::{MAX_MESSAGE_BYTES, PROTOCOL, pb};
use pb::config_client::ConfigClient;
use pb::node_message::Message;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Messages of ours that may wait to be sent.
const OUTBOX: usize = 64;

/// The trailer by which the control plane says when to come again.
const RETRY_AFTER: &str = "retry-after-ms";

/// Opens a stream to `endpoint`. Joining has a time limit of its own, and so has each further step: `patience`.
pub(super) async fn open<'a>(
    member: &'a mut Member,
    endpoint: &str,
    patience: Duration,
) -> Result<(Session<'a>, Streaming<pb::ControlMessage>), Ended> {
    let address = endpoint.trim_start_matches("https://").trim_end_matches('/');
    let facts = member.facts();
    let join_timeout = member.config.control_plane.join_timeout.get();
    let keys = timeout(join_timeout, member.identity.keys(address, facts)).await;
    let keys = keys.map_err(|_| member.slow("joining", join_timeout))?.map_err(|error| member.no_identity(&error))?;
    let config = keys.client_config().map_err(|error| member.no_identity(&error.into()))?;
    let channel = timeout(patience, connect(address, Arc::new(config))).await;
    let channel =
        channel.map_err(|_| member.slow("connecting", patience))?.map_err(|error| member.no_identity(&error.into()))?;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let hello = member.hello(&keys);
    // There is room for it: nobody has sent anything yet.
    outbox.try_send(pb::NodeMessage { message: Some(Message::Hello(hello)) }).ok();
    let mut client = ConfigClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = timeout(patience, client.stream(ReceiverStream::new(messages))).await;
    let inbox = match answer.map_err(|_| member.slow("opening the stream", patience))? {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::Unauthenticated => {
            // Expired in the meantime, or of a CA that is no more: the token decides.
            member.identity.forget();
            let facts = member.facts();
            let joined = timeout(join_timeout, member.identity.join(address, facts)).await;
            return match joined.map_err(|_| member.slow("joining", join_timeout))? {
                Ok(_) => Err(Ended::Renewed),
                Err(error) => Err(member.no_identity(&error)),
            };
        }
        Err(status) => return Err(member.no_identity(&Box::new(status).into())),
    };
    member.settle(Alarm::Identity);
    if member.renew_after.is_none() {
        member.settle(Alarm::Renewal);
    }
    // At `info`, which is the default: whoever has read there that there is no stream reads here that there is one again.
    tracing::info!(%endpoint, "configuration stream open");
    member.tell(|status| {
        status.connected_to = Some(endpoint.to_owned());
        status.node_id = Some(keys.certificate().identity.node_id().to_owned());
    });
    Ok((Session::new(member, outbox, channel, keys), inbox))
}

fn retry_after(status: &Status) -> Option<Duration> {
    let asked = status.metadata().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(asked))
}

impl Member {
    fn slow(&self, what: &str, patience: Duration) -> Ended {
        let reason = format!("{what} took longer than {} ms", patience.as_millis());
        if self.is_expired() {
            self.alarm(&reason);
        }
        Ended::NotOpened { reason, retry_after: None, barred: false }
    }

    /// The node cannot be a member now. That is an alarm if it will not pass by itself.
    fn no_identity(&self, error: &IdentityError) -> Ended {
        let (lasts, asked) = match error {
            IdentityError::Connect(error) => (error.lasts(), None),
            IdentityError::Refused(status) => {
                (matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied), retry_after(status))
            }
            _ => (true, None),
        };
        let (reason, barred) = (error.to_string(), error.bars());
        if lasts || barred || self.is_expired() {
            self.alarm(&reason);
        }
        Ended::NotOpened { reason, retry_after: asked, barred }
    }

    fn is_expired(&self) -> bool {
        self.identity.not_after().is_some_and(|end| end <= SystemTime::now())
    }

    fn alarm(&self, reason: &str) {
        let state = match self.is_expired() {
            true => "its certificate is over",
            false => "it is not let in",
        };
        let text = format!("this node gets no updates: {state} ({reason})");
        if self.raise(Alarm::Identity, text.clone()) {
            let traffic = match self.in_force.held() {
                Some(_) => "traffic goes on as configured",
                None => "it has no configuration, and its traffic ports stay closed until it gets one",
            };
            tracing::error!("{text}; {traffic}");
        }
    }

    fn hello(&self, keys: &NodeKeys) -> pb::Hello {
        let identity = &keys.certificate().identity;
        let partial = self.partial.as_ref().filter(|partial| partial.reader.next_chunk() > 0);
        pb::Hello {
            node_id: identity.node_id().to_owned(),
            group: identity.group().to_owned(),
            facts: Some(self.facts()),
            protocols: vec![PROTOCOL],
            kinds: Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            have: self.have(&Origin::of(keys)),
            resume: partial.map(|partial| pb::Resume {
                lineage: partial.head.lineage.clone(),
                revision: partial.head.revision,
                next_chunk: partial.reader.next_chunk(),
            }),
        }
    }
}
