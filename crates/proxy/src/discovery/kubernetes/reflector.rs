//! The task that reads a cluster: a list, then watches that go on from there (Kubernetes API concepts, "Efficient detection of
//! changes").
//!
//! A watch that ends is followed by one from the last version that was seen. A version that the API server no longer has
//! (410 Gone) is followed by a new list.

use super::super::follow::Pace;
use super::super::http::{Http, Opened, Patience, Question, encoded};
use super::super::registries::DiscoveryError;
use super::super::registry::AskError;
use super::objects::{self, Event, List, Object, Status};
use super::store::{State, Store};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use milecastle_settings::{Kubernetes as Settings, NamespaceSelector, RegistryUrl};
use milecastle_telemetry::Secret;
use regex::Regex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Status and code of a version, or a page, that is no longer there.
const GONE: u16 = 410;

/// Reads one cluster into a store.
pub(super) struct Reflector {
    pub(super) http: Http,
    pub(super) server: RegistryUrl,
    pub(super) token: Token,
    pub(super) scope: Scope,
    pub(super) patience: Patience,
    pub(super) watch_for: Duration,
    pub(super) pace: Pace,
    pub(super) store: Arc<Store>,
}

/// How the gateway says who it is.
pub(super) enum Token {
    None,
    Fixed(Secret<String>),
    /// Read again for each question: such tokens are renewed.
    File(PathBuf),
}

/// Which objects are read.
pub(super) struct Scope {
    path: String,
    /// Selectors, as parameters.
    selectors: String,
    namespaces: Namespaces,
}

/// What the API server cannot select.
enum Namespaces {
    All,
    Matching(Vec<Regex>),
    NotMatching(Vec<Regex>),
}

/// Why a watch has ended.
enum Ended {
    /// Its time was over.
    InTime,
    /// The version that it began with is gone.
    Gone,
    Failed(AskError),
}

impl Scope {
    pub(super) fn new(settings: &Settings) -> Result<Self, DiscoveryError> {
        let (group, kind) = if settings.watch_endpoint_slices {
            ("/apis/discovery.k8s.io/v1", "endpointslices")
        } else {
            ("/api/v1", "endpoints")
        };
        let NamespaceSelector { equal, not_equal, r#match, not_match } = &settings.namespace_selector;
        let path = match equal {
            Some(namespace) => format!("{group}/namespaces/{}/{kind}", encoded(namespace)),
            None => format!("{group}/{kind}"),
        };
        let mut selectors = String::new();
        if let Some(namespace) = not_equal {
            selectors.push_str(&format!("&fieldSelector={}", encoded(&format!("metadata.namespace!={namespace}"))));
        }
        if !settings.label_selector.is_empty() {
            selectors.push_str(&format!("&labelSelector={}", encoded(&settings.label_selector)));
        }
        let compile = |patterns: &[String]| {
            let whole = |pattern: &String| Regex::new(&format!("^(?:{pattern})$"));
            patterns.iter().map(whole).collect::<Result<Vec<_>, _>>().map_err(DiscoveryError::Namespaces)
        };
        let namespaces = match (r#match.as_slice(), not_match.as_slice()) {
            ([], []) => Namespaces::All,
            ([], patterns) => Namespaces::NotMatching(compile(patterns)?),
            (patterns, _) => Namespaces::Matching(compile(patterns)?),
        };
        Ok(Self { path, selectors, namespaces })
    }

    fn has(&self, namespace: &str) -> bool {
        match &self.namespaces {
            Namespaces::All => true,
            Namespaces::Matching(patterns) => patterns.iter().any(|pattern| pattern.is_match(namespace)),
            Namespaces::NotMatching(patterns) => !patterns.iter().any(|pattern| pattern.is_match(namespace)),
        }
    }
}

impl Reflector {
    /// Reads for ever.
    pub(super) async fn run(self: Box<Self>) {
        let mut failures = 0;
        loop {
            match self.list().await {
                Ok(version) => {
                    failures = 0;
                    self.store.set_state(State::Read);
                    self.follow(version).await;
                }
                Err(error) => self.pause(&error, &mut failures).await,
            }
        }
    }

    /// Watches from a version on, until that is gone.
    async fn follow(&self, mut version: String) {
        let mut failures = 0;
        loop {
            match self.watch(&mut version, &mut failures).await {
                // However quickly a server ends its watches, it is not asked all the time.
                Ended::InTime => tokio::time::sleep(self.pace.backoff.pause(0, u8::MAX)).await,
                Ended::Gone => return tokio::time::sleep(self.pace.backoff.pause(0, u8::MAX)).await,
                Ended::Failed(error) => self.pause(&error, &mut failures).await,
            }
        }
    }

    async fn pause(&self, error: &AskError, failures: &mut u32) {
        self.store.set_state(State::Failing(error.to_string().into()));
        tokio::time::sleep(self.pace.backoff.pause(*failures, u8::MAX)).await;
        *failures = failures.saturating_add(1);
    }

    /// Reads everything, page by page; gives the version from which a watch goes on.
    async fn list(&self) -> Result<String, AskError> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let mut target = format!("{}?limit={PAGE}{}", self.scope.path, self.scope.selectors);
            if !next.is_empty() {
                target.push_str(&format!("&continue={}", encoded(&next)));
            }
            let page = self.http.ask(&self.server, self.question(target).await?, self.patience).await?;
            if page.status != 200 {
                return Err(AskError::Status(self.server.to_string(), page.status));
            }
            let List { metadata, items } = serde_json::from_slice(&page.body)?;
            for item in items.into_iter().flatten() {
                let (object, _) = objects::read(item)?;
                all.extend(self.scope.has(&object.namespace).then_some(object));
            }
            match metadata.next.filter(|next| !next.is_empty()) {
                Some(more) => next = more,
                None => {
                    self.store.replace(all);
                    return Ok(metadata.resource_version);
                }
            }
        }
    }

    /// One watch. `version` goes along with what is seen.
    async fn watch(&self, version: &mut String, failures: &mut u32) -> Ended {
        let target = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}{}",
            self.scope.path,
            encoded(version),
            self.watch_for.as_secs(),
            self.scope.selectors,
        );
        let opened = match self.question(target).await {
            Ok(question) => self.http.open(&self.server, question, self.patience).await,
            Err(error) => Err(error),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Ended::Failed(error),
        };
        match opened.response.status().as_u16() {
            200 => {}
            GONE => return Ended::Gone,
            status => return Ended::Failed(AskError::Status(self.server.to_string(), status)),
        }
        *failures = 0;
        self.store.set_state(State::Read);
        // The server ends it in time; if it does not, nobody is there any more.
        match tokio::time::timeout(self.watch_for + self.patience.answer, self.read(opened, version)).await {
            Ok(ended) => ended,
            Err(_) => Ended::Failed(AskError::Late(self.server.to_string())),
        }
    }

    /// Reads the lines of a watch.
    async fn read(&self, mut opened: Opened, version: &mut String) -> Ended {
        let mut buffer = BytesMut::new();
        loop {
            let frame = match opened.response.body_mut().frame().await {
                None => return Ended::InTime,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    return Ended::Failed(AskError::Protocol(self.server.to_string(), error.to_string()));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            // What was there before has no end of a line in it.
            let mut searched = buffer.len();
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(searched + end + 1);
                searched = 0;
                match self.take(&line, version) {
                    Ok(None) => {}
                    Ok(Some(ended)) => return ended,
                    Err(error) => return Ended::Failed(error.into()),
                }
            }
            if buffer.len() > self.http.longest() {
                return Ended::Failed(AskError::TooLong);
            }
        }
    }

    /// Takes one line of a watch in.
    fn take(&self, line: &[u8], version: &mut String) -> serde_json::Result<Option<Ended>> {
        let Event { kind, object } = serde_json::from_slice(line)?;
        if kind == "ERROR" {
            let Status { code, message } = serde_json::from_value(object)?;
            let failed = || AskError::Reading(format!("the API server ends the watch with {code}: {message}"));
            return Ok(Some(if code == GONE { Ended::Gone } else { Ended::Failed(failed()) }));
        }
        let (object, seen): (Object, String) = objects::read(object)?;
        *version = seen;
        match kind.as_str() {
            "ADDED" | "MODIFIED" if self.scope.has(&object.namespace) => self.store.put(object),
            "DELETED" => self.store.delete(&object),
            // BOOKMARK: nothing but the version.
            _ => {}
        }
        Ok(None)
    }

    async fn question(&self, target: String) -> Result<Question, AskError> {
        let question = Question::get(target);
        match &self.token {
            Token::None => Ok(question),
            Token::Fixed(token) => Ok(question.bearer(token.reveal())),
            Token::File(path) => {
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
                let token = read.map_err(std::io::Error::other).and_then(|read| read);
                let token =
                    token.map_err(|error| AskError::Reading(format!("the token in {}: {error}", path.display())))?;
                Ok(question.bearer(token.trim()))
            }
        }
    }
}
