//! Why none, or more than one, of several schemas fits: what stands after the specification's words (`admin-api.md` §16),
//! which name neither an attribute nor a reason.

use serde_json::Value;

use super::node::{Node, NodeId};
use super::walk::{Walk, is_type};
use crate::nearest;

/// Most members that a message takes for misspelt.
const MOST_MISSPELT: usize = 3;

impl Walk<'_> {
    /// Why `value` fits none of `branches`, the first fault of each; branches that ask for another type are spoken of only if
    /// all do. Begins with a colon. `node` is the schema that holds the branches.
    pub(super) fn none_fits(self, node: &Node, branches: &[NodeId], value: &Value) -> String {
        let fitting: Vec<NodeId> = branches.iter().copied().filter(|branch| self.is_of_type(*branch, value)).collect();
        let told = if fitting.is_empty() { branches } else { &fitting };
        let mut reasons: Vec<String> = Vec::new();
        for fault in told.iter().filter_map(|branch| self.gather(*branch, value, 1).into_iter().next()) {
            if !reasons.contains(&fault.message) {
                reasons.push(fault.message);
            }
        }
        format!(": {}{}", reasons.join("; or "), misspelt(node, value))
    }

    /// What two branches ask for that exclude each other; empty unless both ask for members. Begins with a colon.
    pub(super) fn both_fit(self, one: NodeId, other: NodeId) -> String {
        let required = |id: NodeId| {
            let required = &self.nodes[id].object.as_ref()?.required;
            (!required.is_empty()).then(|| Value::from(required.clone()))
        };
        match (required(one), required(other)) {
            (Some(one), Some(other)) => format!(": {one} and {other} exclude each other"),
            _ => String::new(),
        }
    }

    fn is_of_type(self, id: NodeId, value: &Value) -> bool {
        let node = &self.nodes[id];
        let fits = node.types.is_empty() || node.types.iter().any(|kind| is_type(*kind, value));
        fits && node.target.is_none_or(|target| self.is_of_type(target, value))
    }
}

/// Members that the schema does not name and that are nearly one that it names, in brackets; empty if there are none.
fn misspelt(node: &Node, value: &Value) -> String {
    let (Some(rules), Value::Object(members)) = (&node.object, value) else { return String::new() };
    let advice = |name: &String| {
        let absent = rules.properties.keys().filter(|known| !members.contains_key(*known));
        let nearest = nearest(name, absent.map(String::as_str))?;
        Some(format!("\"{name}\": did you mean \"{nearest}\"?"))
    };
    let unknown = members.keys().filter(|name| !rules.properties.contains_key(*name));
    let advice: Vec<String> = unknown.filter_map(advice).take(MOST_MISSPELT).collect();
    if advice.is_empty() { String::new() } else { format!(" ({})", advice.join(" ")) }
}
