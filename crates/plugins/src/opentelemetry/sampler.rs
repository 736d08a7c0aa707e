//! Which traces are recorded.

use super::config::{RootConfig, SamplerConfig, SamplerName};
use super::context::{Parent, TraceId};

/// A sampler, compiled.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sampler {
    Always,
    Never,
    /// Traces the first 4 bytes of whose id, as a number, are below this.
    Below(f64),
    /// As the caller has decided; without a caller as this.
    Parent(Root),
}

/// See [`Sampler::Parent`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Root {
    Always,
    Never,
    Below(f64),
}

impl Sampler {
    pub(super) fn new(config: &SamplerConfig) -> Self {
        match config.name {
            SamplerName::AlwaysOn => Self::Always,
            SamplerName::AlwaysOff => Self::Never,
            SamplerName::TraceIdRatio => Self::Below(bound(config.options.fraction)),
            SamplerName::ParentBase => Self::Parent(Root::new(&config.options.root)),
        }
    }

    /// Whether a trace is recorded.
    pub(super) fn samples(self, trace_id: &TraceId, parent: Option<&Parent>) -> bool {
        match (self, parent) {
            (Self::Always, _) => true,
            (Self::Never, _) => false,
            (Self::Below(bound), _) => number(trace_id) < bound,
            (Self::Parent(_), Some(parent)) => parent.sampled,
            (Self::Parent(root), None) => match root {
                Root::Always => true,
                Root::Never => false,
                Root::Below(bound) => number(trace_id) < bound,
            },
        }
    }
}

impl Root {
    fn new(config: &RootConfig) -> Self {
        match config.name {
            SamplerName::AlwaysOn => Self::Always,
            // There is no caller that it could go by.
            SamplerName::AlwaysOff | SamplerName::ParentBase => Self::Never,
            SamplerName::TraceIdRatio => Self::Below(bound(config.options.fraction)),
        }
    }
}

/// The share as a bound of [`number`].
fn bound(fraction: f64) -> f64 {
    if fraction >= 1.0 { f64::INFINITY } else { fraction * f64::from(u32::MAX) }
}

fn number(trace_id: &TraceId) -> f64 {
    let [a, b, c, d, ..] = *trace_id;
    u32::from_be_bytes([a, b, c, d]).into()
}
