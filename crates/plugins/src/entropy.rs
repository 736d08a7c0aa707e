//! Random bytes for ids, from the cryptographic generator, fetched for many at once.

use std::cell::RefCell;

/// Bytes fetched at once: enough for 256 UUIDs, so that an id costs a copy and not a call of the generator.
const POOL: usize = 4096;

struct Pool {
    bytes: Box<[u8; POOL]>,
    used: usize,
}

thread_local! {
    /// Each worker has its own.
    static POOL_OF_WORKER: RefCell<Pool> = RefCell::new(Pool { bytes: Box::new([0; POOL]), used: POOL });
}

/// Fills `out`, which is at most [`POOL`] bytes long, with bytes nobody has seen.
///
/// # Panics
/// If the operating system gives no randomness, without which there is no id.
fn fill(out: &mut [u8]) {
    POOL_OF_WORKER.with_borrow_mut(|pool| {
        if pool.used + out.len() > POOL {
            aws_lc_rs::rand::fill(&mut *pool.bytes).expect("the operating system gives randomness");
            pool.used = 0;
        }
        let fresh = pool.bytes.get_mut(pool.used..pool.used + out.len()).expect("the pool was filled above");
        out.copy_from_slice(fresh);
        fresh.fill(0);
        pool.used += out.len();
    });
}

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}
