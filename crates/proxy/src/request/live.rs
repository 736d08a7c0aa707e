//! A request under way, and its end.

use crate::balance::Lease;
use crate::interim::Interims;
use crate::lasting::{Ground, Kind, Lasting};
use crate::route_traffic::Ended;
use crate::upload::Upload;
use crate::worker::{Client, Pinned, Worker};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use milecastle_plugin_api::{Chain, HookPanicked, RequestCx, ResponseSource, WhenSuperseded};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Instant;

/// A request under way. Dropping it ends it: the log hooks run then, exactly once, also if the client has left.
pub(crate) struct Live {
    pub(crate) cx: RequestCx,
    pub(crate) client: Rc<Client>,
    pub(crate) pinned: Rc<Pinned>,
    /// The client's body, while it has not been read to its end.
    pub(crate) body: Option<Upload>,
    /// Where interim answers of the upstream go.
    pub(crate) interims: Interims,
    /// What routing matches, where that is not the normal path: encoded slashes are kept.
    pub(crate) match_path: Option<Box<str>>,
    /// Upstreams might read the received target in another way than we do.
    pub(crate) ambiguous: bool,
    /// The lines of `Upgrade` in which the client asks for other protocols; none if it does not.
    pub(crate) upgrade: Vec<HeaderValue>,
    /// Plugins take part; they do not in a request that was refused for its head.
    pub(crate) plugins: bool,
    /// The node that it is with, where the balancer or the health checks want to know.
    pub(crate) lease: Option<Lease>,
    /// When the present attempt began.
    pub(crate) attempt_began: Instant,
    /// Bytes of the answer's body that have come from the upstream.
    pub(crate) upstream_bytes: u64,
    /// The head of an answer was made.
    pub(crate) answered: bool,
    /// The last byte of the answer has been handed to the connection, or will be without our doing.
    pub(crate) complete: bool,
    /// The answer was cut short by the upstream, not by the client.
    pub(crate) broken: bool,
}

/// Fields of an answer that the connection and the gateway have a say in, whoever sets them.
static OURS: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::DATE, header::SERVER, header::TRANSFER_ENCODING];

/// Room for requests, of one worker.
#[derive(Default)]
pub(crate) struct Rooms(
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")] RefCell<Vec<Box<Option<Live>>>>,
);

/// Rooms that a worker keeps.
const MOST_ROOMS: usize = 256;

/// A request under way, in room that the next one will use again. A request is large for the allocator, and short.
pub(crate) struct Held {
    /// Never empty before the drop.
    room: Option<Box<Option<Live>>>,
    worker: Rc<Worker>,
}

impl Held {
    #[inline]
    pub(super) fn new(worker: Rc<Worker>, live: Live) -> Self {
        let mut room = worker.rooms.0.borrow_mut().pop().unwrap_or_default();
        *room = Some(live);
        Self { room: Some(room), worker }
    }
}

impl Deref for Held {
    type Target = Live;

    fn deref(&self) -> &Live {
        self.room.as_deref().and_then(Option::as_ref).expect("a request is in its room until it ends")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Live {
        self.room.as_deref_mut().and_then(Option::as_mut).expect("a request is in its room until it ends")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut room) = self.room.take() else { return };
        *room = None;
        let mut rooms = self.worker.rooms.0.borrow_mut();
        if rooms.len() < MOST_ROOMS {
            rooms.push(room);
        }
    }
}

impl Live {
    /// Runs something on the chain of the global rules, then on that of the route.
    pub(crate) fn on_chains(
        &mut self,
        mut run: impl FnMut(&Chain, &mut RequestCx) -> Result<(), HookPanicked>,
    ) -> Result<(), HookPanicked> {
        if !self.plugins {
            return Ok(());
        }
        self.cx.global_phase = true;
        let global = run(self.pinned.snapshot.global(), &mut self.cx);
        self.cx.global_phase = false;
        let Some(chain) = self.cx.chain.as_ref().filter(|chain| !chain.entries().is_empty()).cloned() else {
            return global;
        };
        let route = run(&chain, &mut self.cx);
        global.and(route)
    }

    /// The head of its answer goes out: from here on it may last.
    pub(super) fn begin_answer(&mut self) {
        self.answered = true;
        self.client.worker.counters.answers_begun.up();
    }

    /// The node is no longer in use.
    fn end_lease(&self, lease: Lease, ended: Instant) {
        let answered = self.cx.upstream.last().filter(|attempt| attempt.answered);
        let connect = answered.map(|attempt| attempt.connect).unwrap_or_default();
        // How long a tunnel is open says nothing about how fast the node is.
        let switched = answered.filter(|attempt| attempt.status == StatusCode::SWITCHING_PROTOCOLS.as_u16());
        let to_head = switched.and_then(|attempt| attempt.header);
        let took = connect + to_head.unwrap_or_else(|| ended.saturating_duration_since(self.attempt_began));
        lease.end(self.cx.response.logged_status(), took, ended);
    }

    /// Whether a plugin sees the answer's body.
    pub(crate) fn body_is_seen(&self) -> bool {
        let route = self.cx.chain.as_ref().is_some_and(|chain| chain.sees_body());
        self.plugins && (route || self.pinned.snapshot.global().sees_body())
    }

    /// Whether anybody but the connection looks at the fields of the answer's head.
    pub(crate) fn answer_head_is_seen(&self) -> bool {
        let plugin = || {
            let route = self.cx.chain.as_ref().is_some_and(|chain| chain.has_header_filter());
            let global = self.pinned.snapshot.global().has_header_filter();
            self.plugins && (route || global || self.cx.response_headers_to_come().any(|name| OURS.contains(name)))
        };
        self.cx.request.version == Version::HTTP_3
            || self.when_superseded() != WhenSuperseded::Keep
            || self.client.worker.node.config.show_upstream_status
            // The upstream's own would contradict the gateway's.
            || self.client.alternative.is_some()
            || plugin()
            || self.body_is_seen()
            || self.head_is_logged()
    }

    /// What becomes of it, if it lasts, once what it was asked for under holds no longer.
    pub(crate) fn when_superseded(&self) -> WhenSuperseded {
        self.cx.when_superseded.unwrap_or(self.client.worker.node.config.lasting.when_superseded)
    }

    /// Watches what lasts of it, where its policy may end that.
    pub(crate) fn watch(&self, kind: Kind, not_before: Instant) -> Option<Lasting> {
        let cx = &self.cx;
        Lasting::watch(&self.client.worker, kind, self.when_superseded(), not_before, || {
            let route = self.pinned.snapshot.route(&cx.route.as_ref()?.id)?;
            Ground::of_request(cx, route)
        })
    }

    /// Whether the answer's head is looked at after it has been sent.
    pub(crate) fn head_is_logged(&self) -> bool {
        let plugin = || {
            let route = self.cx.chain.as_ref().is_some_and(|chain| chain.logs_head());
            self.plugins && (route || self.pinned.snapshot.global().logs_head())
        };
        self.client.worker.node.on_end.as_ref().is_some_and(|on_end| on_end.reads_answer_head()) || plugin()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let ended = Instant::now();
        self.cx.timing.ended = Some(ended);
        // The request's own code panicked: its future is being unwound.
        if std::thread::panicking() {
            self.cx.response.status = StatusCode::INTERNAL_SERVER_ERROR;
        } else if !self.complete && !self.broken {
            self.cx.response.client_gone = true;
            self.client.activity.cancel();
        }
        if let Some(attempt) = self.cx.upstream.last_mut().filter(|attempt| attempt.answered) {
            attempt.response = ended.saturating_duration_since(self.attempt_began);
            attempt.response_bytes = self.upstream_bytes;
            self.client.worker.counters.upstream_times.count(attempt.response);
        }
        if let Some(lease) = self.lease.take() {
            self.end_lease(lease, ended);
        }
        if self.plugins {
            let chains = [Some(&**self.pinned.snapshot.global()), self.cx.chain.as_deref()];
            chains.into_iter().flatten().for_each(|chain| chain.mask_credentials(&mut self.cx.request));
        }
        let logged = self.on_chains(|chain, cx| {
            chain.run_log(cx);
            Ok(())
        });
        debug_assert_eq!(logged, Ok(()), "log hooks that panic are counted and give no error");
        let worker = &self.client.worker;
        if let Some(on_end) = &worker.node.on_end {
            on_end.on_request_end(&self.cx);
        }
        worker.spare.put_map(std::mem::take(&mut self.cx.request.headers));
        worker.spare.put_lists(self.cx.take_lists());
        if !self.answered {
            worker.counters.answers_begun.up();
        }
        worker.counters.in_flight.down();
        let class = self.cx.response.logged_status() / 100;
        let took = || worker.counters.request_times.count(ended.saturating_duration_since(self.cx.timing.started));
        let time = (class != 1).then(took);
        match class {
            1 => worker.counters.responses_1xx.up(),
            2 => worker.counters.responses_2xx.up(),
            3 => worker.counters.responses_3xx.up(),
            4 => worker.counters.responses_4xx.up(),
            // A number that has no class is taken for an error of the server (RFC 9110 §15).
            _ => {
                worker.counters.responses_5xx.up();
                if self.cx.response.source == ResponseSource::Upstream {
                    worker.counters.responses_5xx_upstream.up();
                }
            }
        }
        if let Some(routes) = &worker.routes {
            let class = if (1..=4).contains(&class) { usize::from(class) - 1 } else { 4 };
            let upstream_5xx = class == 4 && self.cx.response.source == ResponseSource::Upstream;
            routes.count(self.cx.route.as_ref(), Ended { class, upstream_5xx, time });
        }
        self.client.activity.end(ended);
    }
}
