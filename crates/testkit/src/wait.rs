//! Waiting for something to become true, which is what tests do instead of sleeping.

use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(10);

/// How long a test waits for something that should happen soon. Generous: it is only ever used up by a failing test.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` gives something, and returns that.
///
/// # Panics
/// After `within`, saying `what` did not happen.
pub async fn wait_for<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Waits until `condition` is true, at most [`SOON`].
///
/// # Panics
/// As [`wait_for`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(what, SOON, async || condition().await.then_some(())).await;
}

/// As [`wait_for`], for tests and helpers without a runtime.
///
/// # Panics
/// As [`wait_for`].
pub fn wait_for_blocking<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {what}");
        std::thread::sleep(INTERVAL);
    }
}
