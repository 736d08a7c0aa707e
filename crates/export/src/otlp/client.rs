//! Sending to a collector.

use crate::{Background, HttpClient, Target, TargetError};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times that a message is sent at most.
const TRIES: u32 = 3;
/// All of them begin within this time.
const WITHIN: Duration = Duration::from_secs(10);
/// The pause before the second try is up to this; before each later one up to twice as much as before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Messages in a row that did not get through, after which the collector is left alone for a while.
const FAILURES: u32 = 5;
/// How long.
const REST: Duration = Duration::from_secs(5);

/// How a collector is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Where to post.
    pub target: Target,
    /// Headers of each request.
    pub headers: HeaderMap,
    /// Time that a request may take.
    pub timeout: Duration,
}

/// Posts messages to a collector.
pub struct OtlpClient {
    http: HttpClient,
    headers: HeaderMap,
    timeout: Duration,
    failures: u32,
    /// Until when the collector is left alone.
    rests_until: Option<Instant>,
}

/// The address of a collector: without a scheme it gets `http://`, without a path `default_path`.
///
/// # Errors
/// It is no address.
pub fn collector(address: &str, default_path: &str, verify: bool) -> Result<Target, TargetError> {
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let mut target = Target::parse(&address, verify)?;
    if target.path == "/" {
        default_path.clone_into(&mut target.path);
    }
    Ok(target)
}

impl OtlpClient {
    /// A client of the collector that the settings name.
    pub fn new(background: Arc<Background>, settings: OtlpSettings) -> Self {
        let OtlpSettings { target, mut headers, timeout } = settings;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Self { http: HttpClient::new(background, target), headers, timeout, failures: 0, rests_until: None }
    }

    /// Sends a message: up to three times within ten seconds, with pauses that grow and are drawn. After five messages in a
    /// row that did not get through none is sent for five seconds.
    ///
    /// # Errors
    /// It did not get through; why, for people.
    pub async fn export(&mut self, message: &impl Message) -> Result<(), String> {
        let began = Instant::now();
        if self.rests_until.is_some_and(|until| began < until) {
            return Err(format!(
                "{} did not answer {} times in a row and is left alone",
                self.http.target(),
                self.failures
            ));
        }
        let body = Bytes::from(message.encode_to_vec());
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        let reason = loop {
            tries += 1;
            let reason = match self.http.post(self.headers.clone(), body.clone(), self.timeout).await {
                Ok(answer) if answer.status == 200 => {
                    (self.failures, self.rests_until) = (0, None);
                    return Ok(());
                }
                Ok(answer) => format!("{} answered {}", self.http.target(), answer.status),
                Err(error) => format!("{}: {error}", self.http.target()),
            };
            let drawn = pause.mul_f64(fastrand::f64());
            if tries == TRIES || began.elapsed() + drawn > WITHIN {
                break reason;
            }
            tokio::time::sleep(drawn).await;
            pause *= 2;
        };
        self.failures += 1;
        self.rests_until = (self.failures >= FAILURES).then(|| Instant::now() + REST);
        Err(reason)
    }
}
