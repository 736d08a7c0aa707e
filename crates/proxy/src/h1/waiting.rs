//! What an exchange with an upstream waits for, in HTTP/1.1 and in HTTP/2 alike.

use super::{Outgoing, Patience};
use crate::failure::Failure;
use crate::upload::UploadError;
use std::time::Duration;

/// What is waited for, and so which limit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    ToSend,
    ForClient,
    ForAnswer,
}

impl Waiting {
    /// How long that may take.
    pub(crate) fn limit(self, patience: &Patience) -> Duration {
        match self {
            Self::ToSend => patience.send,
            Self::ForClient => patience.client,
            Self::ForAnswer => patience.read,
        }
    }

    /// It has taken longer. A body that did not come is not read any further.
    pub(crate) fn too_long(self, outgoing: &Outgoing) -> Failure {
        match self {
            Self::ToSend => Failure::SendTimeout,
            Self::ForClient => match outgoing {
                Outgoing::Streaming(pump) => pump.too_slow().into(),
                Outgoing::None | Outgoing::Whole(_) => UploadError::TooSlow.into(),
            },
            Self::ForAnswer => Failure::ReadTimeout,
        }
    }
}
