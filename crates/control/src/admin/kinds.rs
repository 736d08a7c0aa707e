//! What sets the kinds apart, as a table (`docs/spec/admin-api.md` §4 and §6).

use http::Method;
use milecastle_model::Kind;

/// The rules of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `POST` makes an object with a generated id.
    post: bool,
    /// `PATCH` merges.
    patch: bool,
    /// `PATCH` also takes a path inside the object.
    pub(crate) patch_inside: bool,
    /// Which attribute names the object.
    pub(crate) identity: Identity,
    /// The server keeps `create_time` and `update_time`.
    pub(crate) timestamps: bool,
    /// An empty list is answered with 404.
    pub(crate) empty_list_is_404: bool,
}

/// What names an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// `id`.
    Id,
    /// `username`; `id` is not added.
    Username,
    /// `id`, which is the name of an enabled plugin.
    Plugin,
}

const COMMON: Rules = Rules {
    post: true,
    patch: true,
    patch_inside: true,
    identity: Identity::Id,
    timestamps: true,
    empty_list_is_404: false,
};

impl Rules {
    pub(crate) fn of(kind: Kind) -> Rules {
        match kind {
            Kind::Route | Kind::Service | Kind::Upstream | Kind::Ssl => COMMON,
            Kind::ConsumerGroup | Kind::PluginConfig | Kind::GlobalRule | Kind::Secret => {
                Rules { post: false, ..COMMON }
            }
            Kind::Proto | Kind::StreamRoute => Rules { patch: false, ..COMMON },
            Kind::GraphqlCostDecoration => Rules { patch_inside: false, empty_list_is_404: true, ..COMMON },
            Kind::Credential => Rules { post: false, patch: false, empty_list_is_404: true, ..COMMON },
            Kind::Consumer => Rules { post: false, patch: false, identity: Identity::Username, ..COMMON },
            // No path of this API leads to it.
            Kind::GroupSettings => Rules { post: false, patch: false, timestamps: false, ..COMMON },
            Kind::PluginMetadata => {
                Rules { post: false, patch: false, identity: Identity::Plugin, timestamps: false, ..COMMON }
            }
        }
    }

    /// Whether the kind takes `method`, one of those that the route table lets through.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        (*method != Method::POST || self.post) && (*method != Method::PATCH || self.patch)
    }
}
