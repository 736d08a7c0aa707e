//! A group's objects on their way: into one file and out of it, and from one group to another.

use super::edits::{encode, identify};
use super::plan::{Edits, Flaw};
use crate::admin::private_keys::{self, Occasion};
use crate::openapi::bodies_by_path;
use crate::state::Image;
use bytes::Bytes;
use milecastle_model::{Fault, Key, Kind};
use milecastle_settings::Registries;
use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// How files of this form are told from others.
const FORMAT: u64 = 1;

/// Which objects are meant; all of them where nothing is named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) keys: BTreeSet<Key>,
}

/// What is to be done about objects that are there, and are others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Existing {
    /// They become what comes.
    #[default]
    Overwrite,
    /// They stay as they are.
    Keep,
    /// Nothing is done at all.
    Refuse,
}

/// How objects are to arrive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrival {
    pub(crate) selection: Selection,
    pub(crate) existing: Existing,
    /// What is there and does not come is deleted; but for the settings of the group.
    pub(crate) prune: bool,
}

/// A group as one file: `{"milecastle":1,"group","revision","objects":{"/routes/1":{…}}}`.
#[derive(Serialize)]
struct Written<'a> {
    milecastle: u64,
    group: &'a str,
    revision: u64,
    #[serde(serialize_with = "in_order")]
    objects: Vec<(String, Box<RawValue>)>,
}

/// The same as it is read; group and revision say where it comes from, and nothing more.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupFile {
    #[schemars(extend("const" = FORMAT))]
    milecastle: u64,
    #[serde(default, rename = "group")]
    _group: Option<String>,
    #[serde(default, rename = "revision")]
    _revision: Option<u64>,
    #[schemars(schema_with = "bodies_by_path")]
    objects: BTreeMap<String, Box<RawValue>>,
}

fn in_order<S: Serializer>(objects: &[(String, Box<RawValue>)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(objects.len()))?;
    for (path, body) in objects {
        map.serialize_entry(path, body)?;
    }
    map.end()
}

impl Selection {
    pub(crate) fn holds(&self, key: &Key) -> bool {
        (self.kinds.is_empty() && self.keys.is_empty()) || self.kinds.contains(&key.kind) || self.keys.contains(key)
    }
}

impl Existing {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "overwrite" => Some(Self::Overwrite),
            "keep" => Some(Self::Keep),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }
}

/// The key that a path of such a file names.
pub(crate) fn key_of(path: &str) -> Option<Key> {
    let settings = Key::group_settings();
    if path == settings.path() { Some(settings) } else { Key::from_path(path) }
}

/// The file of a group. Bodies are in it as they are stored, but for private keys, which are marked, and secrets of registries, which
/// are masked: read into a group that has them, they stand for what it has.
///
/// # Errors
/// What is stored is not readable.
pub(crate) fn write(group: &str, image: &Image, selection: &Selection) -> Result<Vec<u8>, serde_json::Error> {
    let mut objects = Vec::new();
    for object in image.objects().filter(|object| selection.holds(&object.key)) {
        let body = match object.key.kind {
            Kind::GroupSettings => {
                let mut settings: Value = serde_json::from_slice(&object.body)?;
                if let Some(registries) = settings.get_mut("discovery") {
                    Registries::mask(registries);
                }
                serde_json::value::to_raw_value(&settings)?
            }
            kind => private_keys::shown(kind, &object.body, Occasion::Write)?.into_owned(),
        };
        objects.push((object.key.path(), body));
    }
    serde_json::to_vec(&Written { milecastle: FORMAT, group, revision: image.revision(), objects })
}

/// The bodies in such a file.
///
/// # Errors
/// Why it is none.
pub(crate) fn read(text: &[u8]) -> Result<BTreeMap<Key, Bytes>, String> {
    let GroupFile { milecastle, objects, .. } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if milecastle != FORMAT {
        return Err(format!("a file of form {milecastle}, this version reads form {FORMAT}"));
    }
    let read = |(path, body): (String, Box<RawValue>)| match key_of(&path) {
        Some(_) if !body.get().starts_with('{') => Err(format!("objects: `{path}` is no object")),
        Some(key) => Ok((key, Bytes::from(String::from(Box::<str>::from(body)).into_bytes()))),
        None => Err(format!("objects: `{path}` names no object; expected such as /routes/1")),
    };
    objects.into_iter().map(read).collect()
}

/// What the arrival of bodies comes to in a group, and what stands against it before anything is judged.
pub(crate) fn arrive(base: &Image, bodies: BTreeMap<Key, Bytes>, arrival: &Arrival) -> (Edits, Vec<Flaw>) {
    let (mut edits, mut flaws) = (Edits::new(), Vec::new());
    let named: BTreeSet<Key> = bodies.keys().cloned().collect();
    for (key, body) in bodies.into_iter().filter(|(key, _)| arrival.selection.holds(key)) {
        let stored = base.get(&key);
        if arrival.existing == Existing::Keep && stored.is_some() {
            continue;
        }
        let body = match identified(&key, body).and_then(|body| unmasked(&key, body, base)) {
            Ok(body) => body,
            Err(faults) => {
                flaws.extend(faults.into_iter().map(|fault| Flaw { key: key.clone(), fault }));
                continue;
            }
        };
        let other = stored.is_some_and(|object| !milecastle_store::says_the_same(&object.body, &body));
        match arrival.existing {
            Existing::Refuse if other => {
                flaws.push(Flaw { key, fault: Fault::rule("", "it is there already, and another one") });
            }
            _ => drop(edits.insert(key, Some(body))),
        }
    }
    if arrival.prune {
        let gone = base
            .objects()
            .map(|object| &object.key)
            .filter(|key| key.kind != Kind::GroupSettings && arrival.selection.holds(key) && !named.contains(key));
        edits.extend(gone.map(|key| (key.clone(), None)));
    }
    (edits, flaws)
}

/// The body with the name of its object, which every stored one has; as it is where it has that.
fn identified(key: &Key, bytes: Bytes) -> Result<Bytes, Vec<Fault>> {
    if key.kind == Kind::GroupSettings {
        return Ok(bytes);
    }
    let Ok(given) = serde_json::from_slice::<Map<String, Value>>(&bytes) else { return Ok(bytes) };
    let mut members = given.clone();
    identify(key, &mut members)?;
    Ok(if members == given { bytes } else { encode(&Value::Object(members)) })
}

/// The body with what the group has in place of marks and masks; as it is where it has none.
fn unmasked(key: &Key, bytes: Bytes, base: &Image) -> Result<Bytes, Vec<Fault>> {
    let stored = base.get(key);
    let Ok(mut body) = serde_json::from_slice::<Value>(&bytes) else { return Ok(bytes) };
    match key.kind {
        Kind::GroupSettings => {
            let Some(registries) = body.get_mut("discovery") else { return Ok(bytes) };
            let known = stored.and_then(|object| serde_json::from_slice::<Value>(&object.body).ok());
            let known = known.and_then(|mut settings| settings.get_mut("discovery").map(Value::take));
            Registries::unmask(registries, &known.unwrap_or_default())?;
        }
        kind if private_keys::is_marked(kind, &body) => private_keys::restore(kind, &mut body, stored)?,
        _ => return Ok(bytes),
    }
    Ok(serde_json::to_vec(&body).expect("a JSON value can be written as text").into())
}
