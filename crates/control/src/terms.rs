//! What a write to a gateway group is judged by: the settings of the group, which are an object of its configuration.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use milecastle_model::{Fault, Key, Kind, Object};
use milecastle_snapshot::Compiler;
use milecastle_store::Expect;
use serde_json::Value;

use crate::efforts::{Effort, Unfinished};
use crate::state::Image;

/// Most bytes of an object: what nodes take as one record, less room for what is written beside it.
const LARGEST: usize = milecastle_wire::Limits::DEFAULT.record_bytes - (64 << 10);

/// The settings of a group as an image has them.
///
/// What was judged by them may be stored only while they are what they were: each write names them as a precondition
/// ([`Terms::require`]), so that no revision holds an object that was judged under other settings than it has.
pub(crate) struct Terms {
    compiler: Compiler,
    settings: Expect,
}

/// This replica does not know what stands in the settings of the group.
#[derive(Debug, thiserror::Error)]
#[error("the settings of this gateway group are of another version, upgrade this replica of the control plane: {0}")]
pub(crate) struct Unreadable(String);

impl Terms {
    /// `compiler` is any that this process has.
    pub(crate) fn of(compiler: &Compiler, image: &Image) -> Result<Self, Unreadable> {
        let compiler = compiler
            .of_group(image.get(&Key::group_settings()))
            .map_err(|faults| Unreadable(faults.iter().map(Fault::placed).collect::<Vec<_>>().join("; ")))?;
        Ok(Self { compiler, settings: settings(image) })
    }

    /// The compiler of the settings.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Whether an image has these settings.
    pub(crate) fn are_of(&self, image: &Image) -> bool {
        self.settings == settings(image)
    }

    /// For [`milecastle_store::ChangeSet::require`].
    pub(crate) fn require(&self) -> (Key, Expect) {
        (Key::group_settings(), self.settings)
    }
}

/// What is to be expected of the settings if they are still those of the image.
pub(crate) fn settings(image: &Image) -> Expect {
    image.get(&Key::group_settings()).map_or(Expect::Absent, |object| Expect::ModifiedAt(object.modified))
}

/// All that an object could be refused for without looking at others but the metadata of its plugins, which `image` has.
pub(crate) fn faults(compiler: &Compiler, key: &Key, body: &Value, image: &Image) -> Vec<Fault> {
    if let Some(fault) = too_large(size_of(body), body) {
        return vec![fault];
    }
    let metadata = |plugin: &str| parsed(image.get(&Key::new(Kind::PluginMetadata, plugin))?);
    beside_others(|| compiler.check_beside(key.kind, &key.id, body, &metadata))
}

/// Does what may take long, as compiling large patterns does, without holding up other requests of this thread. Of a set, which is judged
/// as a whole on a thread for such work, it hands nothing over, and costs nothing.
#[expect(clippy::disallowed_methods, reason = "called on multi-threaded runtimes alone, where it does not panic")]
fn beside_others<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    // Other runtimes cannot hand over the rest of their work.
    let can = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if can { tokio::task::block_in_place(work) } else { work() }
}

/// The fault of an object of so many bytes, if nodes do not take it; its place is the member that has most of them.
pub(crate) fn too_large(size: usize, body: &Value) -> Option<Fault> {
    (size > LARGEST).then(|| {
        let members = body.as_object().into_iter().flatten();
        let largest = members.max_by_key(|(_, member)| size_of(member)).map(|(name, _)| name.as_str());
        let name = largest.unwrap_or_default();
        let message = format!("an object has at most {LARGEST} bytes, this one has {size}, most of them in {name}");
        Fault::configuration(format!("/{name}"), message)
    })
}

/// How many bytes a value has as text.
pub(crate) fn size_of(value: &Value) -> usize {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).expect("a JSON value can be written, and counting does not fail");
    counted.0
}

/// Counts what is written.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parsed(object: &Object) -> Option<Value> {
    serde_json::from_slice(&object.body).ok()
}

/// Looks for stored objects that could be built under the present settings and could not under others.
pub(crate) struct Review {
    before: Compiler,
    after: Compiler,
    image: Arc<Image>,
    found: BTreeMap<Key, Fault>,
}

impl Review {
    /// Looks through all objects. The work grows with them.
    ///
    /// # Errors
    /// The effort does not go on.
    pub(crate) fn of(
        before: Compiler,
        after: Compiler,
        image: Arc<Image>,
        effort: &Effort,
    ) -> Result<Self, Unfinished> {
        let mut review = Self { before, after, image, found: BTreeMap::new() };
        let image = review.image.clone();
        for object in image.objects() {
            effort.check()?;
            review.look_at(object);
        }
        Ok(review)
    }

    /// Whether it is of a change from these settings to those.
    pub(crate) fn is_of(&self, before: &Compiler, after: &Compiler) -> bool {
        (self.before.settings(), self.after.settings()) == (before.settings(), after.settings())
    }

    /// Looks through what a later image has otherwise.
    pub(crate) fn go_on(&mut self, image: Arc<Image>) {
        let before = std::mem::replace(&mut self.image, image.clone());
        for difference in before.differences(&image) {
            if let Some(gone) = difference.before {
                self.found.remove(&gone.key);
            }
            if let Some(object) = difference.after {
                self.look_at(object);
            }
        }
    }

    /// The objects found, by key, with the first fault of each.
    pub(crate) fn found(&self) -> impl ExactSizeIterator<Item = (&Key, &Fault)> {
        self.found.iter()
    }

    fn look_at(&mut self, object: &Object) {
        let Some(body) = parsed(object) else { return };
        let first = |compiler: &Compiler| faults(compiler, &object.key, &body, &self.image).into_iter().next();
        // What has a fault under either is none of this change's business.
        if let Some(fault) = first(&self.after).filter(|_| first(&self.before).is_none()) {
            self.found.insert(object.key.clone(), fault);
        }
    }
}
