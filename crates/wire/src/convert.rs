//! Conversions between the generated types and the model.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use milecastle_model::{Change, Key, Kind, Object};

use crate::pb;

/// A message that has no counterpart in the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A newer control plane knows a kind that this version does not. Keep the object, reject it in `Applied`, and
    /// answer 503 for what depends on it.
    #[error("objects of kind {kind:?} are not known to this version (object {id:?}): upgrade this node")]
    UnknownKind {
        /// The kind's name as it came.
        kind: String,
        /// The object's id.
        id: String,
    },
    /// A message lacks a part that every version sends.
    #[error("message without {0}")]
    Missing(&'static str),
}

impl From<&Key> for pb::ObjectKey {
    fn from(key: &Key) -> Self {
        Self { kind: key.kind.name().to_owned(), id: key.id.as_ref().to_owned() }
    }
}

impl TryFrom<&pb::ObjectKey> for Key {
    type Error = ConvertError;

    fn try_from(key: &pb::ObjectKey) -> Result<Self, ConvertError> {
        match Kind::from_name(&key.kind) {
            Some(kind) => Ok(Self { kind, id: Arc::from(key.id.as_str()) }),
            None => Err(ConvertError::UnknownKind { kind: key.kind.clone(), id: key.id.clone() }),
        }
    }
}

impl From<&Object> for pb::Object {
    fn from(object: &Object) -> Self {
        Self {
            key: Some((&object.key).into()),
            body: object.body.clone(),
            created: object.created,
            modified: object.modified,
        }
    }
}

impl TryFrom<&pb::Object> for Object {
    type Error = ConvertError;

    fn try_from(object: &pb::Object) -> Result<Self, ConvertError> {
        Ok(Self {
            key: object.key.as_ref().ok_or(ConvertError::Missing("object key"))?.try_into()?,
            // A copy: the bytes received are a window into their whole message, which one small body that stays
            // would keep in memory.
            body: Bytes::copy_from_slice(&object.body),
            created: object.created,
            modified: object.modified,
        })
    }
}

impl From<&Change> for pb::Change {
    fn from(change: &Change) -> Self {
        let change = match change {
            Change::Put(object) => pb::change::Change::Put(object.into()),
            Change::Delete { key, revision } => {
                pb::change::Change::Delete(pb::Delete { key: Some(key.into()), revision: *revision })
            }
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<&pb::Change> for Change {
    type Error = ConvertError;

    fn try_from(change: &pb::Change) -> Result<Self, ConvertError> {
        match change.change.as_ref().ok_or(ConvertError::Missing("change"))? {
            pb::change::Change::Put(object) => Ok(Self::Put(object.try_into()?)),
            pb::change::Change::Delete(delete) => Ok(Self::Delete {
                key: delete.key.as_ref().ok_or(ConvertError::Missing("object key"))?.try_into()?,
                revision: delete.revision,
            }),
        }
    }
}

impl pb::Applied {
    /// Sets what is in quarantine, leaving out the last ones if the message would pass `max_bytes`.
    pub fn set_rejected(&mut self, rejected: Vec<pb::Rejection>, max_bytes: usize) {
        self.rejected_total = u32::try_from(rejected.len()).unwrap_or(u32::MAX);
        self.rejected.clear();
        let mut left = max_bytes.saturating_sub(prost::Message::encoded_len(self));
        for rejection in rejected {
            // A tag, and a length of at most five bytes.
            let bytes = prost::Message::encoded_len(&rejection) + 6;
            let Some(rest) = left.checked_sub(bytes) else { break };
            left = rest;
            self.rejected.push(rejection);
        }
    }
}

impl pb::ControlMessage {
    /// Its length as it travels, in bytes, without the five that gRPC puts before it.
    pub fn wire_bytes(&self) -> usize {
        prost::Message::encoded_len(self)
    }
}

impl fmt::Debug for pb::JoinRequest {
    /// All but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("node_id", &self.node_id)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, id: &str) -> Object {
        Object {
            key: Key { kind, id: Arc::from(id) },
            body: Bytes::from_static(b"{\"uri\": \"/\\u00e9\" }"),
            created: 3,
            modified: 9,
        }
    }

    #[test]
    fn every_kind_goes_there_and_back() {
        for &kind in Kind::ALL {
            let there = object(kind, "jack/credentials/c1");
            let back = Object::try_from(&pb::Object::from(&there)).unwrap();
            assert_eq!((back.key.kind, &back.key.id, &back.body), (there.key.kind, &there.key.id, &there.body));
            assert_eq!((back.created, back.modified), (3, 9));
        }
    }

    #[test]
    fn changes_go_there_and_back() {
        let put = Change::Put(object(Kind::Route, "1"));
        match Change::try_from(&pb::Change::from(&put)).unwrap() {
            Change::Put(back) => assert_eq!((back.key.kind, back.modified), (Kind::Route, 9)),
            Change::Delete { .. } => panic!("a put became a delete"),
        }
        let delete = Change::Delete { key: Key { kind: Kind::Consumer, id: Arc::from("jack") }, revision: 7 };
        match Change::try_from(&pb::Change::from(&delete)).unwrap() {
            Change::Delete { key, revision } => assert_eq!((key.kind, &*key.id, revision), (Kind::Consumer, "jack", 7)),
            Change::Put(_) => panic!("a delete became a put"),
        }
    }

    #[test]
    fn a_kind_of_the_future_is_named() {
        let mut future = pb::Object::from(&object(Kind::Route, "7"));
        future.key.as_mut().unwrap().kind = "teleport".to_owned();
        let error = Object::try_from(&future).unwrap_err();
        assert_eq!(error, ConvertError::UnknownKind { kind: "teleport".to_owned(), id: "7".to_owned() });
        assert!(error.to_string().contains("teleport"));
    }

    #[test]
    fn parts_that_lack_are_named() {
        assert_eq!(Change::try_from(&pb::Change::default()).unwrap_err(), ConvertError::Missing("change"));
        assert_eq!(Object::try_from(&pb::Object::default()).unwrap_err(), ConvertError::Missing("object key"));
    }

    #[test]
    fn a_body_does_not_keep_its_message() {
        let message = Bytes::from(vec![b'x'; 4096]);
        let mut wire = pb::Object::from(&object(Kind::Route, "1"));
        wire.body = message.slice(0..16);
        let object = Object::try_from(&wire).unwrap();
        drop(wire);
        assert!(message.is_unique());
        assert_eq!(object.body.len(), 16);
    }

    #[test]
    fn rejections_are_cut_to_the_message() {
        let rejection = pb::Rejection {
            key: Some(pb::ObjectKey { kind: "route".to_owned(), id: "1".to_owned() }),
            reason: "r".repeat(100),
            serving_last_good: false,
        };
        let mut applied = pb::Applied { lineage: "l".to_owned(), ..Default::default() };
        applied.set_rejected(vec![rejection.clone(); 100], 1000);
        assert_eq!(applied.rejected_total, 100);
        assert!((1..100).contains(&applied.rejected.len()));
        assert!(prost::Message::encoded_len(&applied) <= 1000);
        applied.set_rejected(vec![rejection; 3], 1000);
        assert_eq!((applied.rejected.len(), applied.rejected_total), (3, 3));
    }

    #[test]
    fn a_message_knows_its_length() {
        let goaway = pb::Goaway { retry_after_ms: 1, reason: "drain".to_owned() };
        let message = pb::ControlMessage { message: Some(pb::control_message::Message::Goaway(goaway)) };
        assert_eq!(message.wire_bytes(), prost::Message::encode_to_vec(&message).len());
    }

    #[test]
    fn a_join_request_does_not_show_its_token() {
        let request = pb::JoinRequest { token: "mc1.default.t.secret.f".to_owned(), ..Default::default() };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
