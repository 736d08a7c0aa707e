//! What a snapshot of N simple routes keeps in memory, the gateway's part of `cargo xtask bench memory`.
//!
//! `memory N` prints one JSON object: bytes that the allocator was asked for and that are still in use, for each route,
//! when all come at once as at a start and when they come one by one as from the Admin API; and what is left when they
//! are gone.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use milecastle_model::{Change, Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry, Shared};
use milecastle_snapshot::{Compiler, Snapshot};
use serde_json::{Map, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A route as the Admin API stores it.
fn route(n: usize) -> Object {
    let id = format!("r{n}");
    let body = json!({ "uri": format!("/api/r{n}/*"), "upstream_id": "origin", "priority": 0, "status": 1, "id": id,
                       "create_time": 1_795_000_000, "update_time": 1_795_000_000 });
    Object { key: Key::new(Kind::Route, id), body: body.to_string().into(), created: 1, modified: 1 }
}

fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

fn one_by_one(compiler: &Compiler, from: Snapshot, changes: impl Iterator<Item = Change>) -> Snapshot {
    changes.fold(from, |snapshot, change| compiler.apply(&snapshot, snapshot.revision() + 1, &[change]).0)
}

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let compiler = Compiler::new(Arc::new(registry));
    let puts = || (0..count).map(|n| Change::Put(route(n)));
    let deletes = || (0..count).map(|n| Change::Delete { key: route(n).key, revision: 1 });
    // What is made once and lazily, the schemas say, is not the routes'.
    drop(compiler.build("memory", 1, vec![route(0)]));

    let start = in_use();
    let (whole, rejected) = compiler.build("memory", 1, (0..count).map(route).collect());
    assert!(rejected.is_empty(), "a simple route is built");
    let at_once = in_use() - start;
    drop(whole);

    let empty = compiler.build("memory", 1, Vec::new()).0;
    let start = in_use();
    let stepwise = one_by_one(&compiler, empty, puts());
    let one_each = in_use() - start;
    let gone = one_by_one(&compiler, stepwise, deletes());
    let left = in_use().saturating_sub(start);
    drop(gone);

    let report = json!({ "routes": count, "body_bytes": route(count).body.len(), "at_once": at_once / count.max(1),
                         "one_by_one": one_each / count.max(1), "left": left });
    println!("{report}");
}
