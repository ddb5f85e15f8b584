use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Edge, Node, NodeKind, NodeRef};

/// Nodes and the edges between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The nodes, in the order they were reached.
    pub nodes: Vec<Node>,
    /// The edges among them.
    pub edges: Vec<Edge>,
}

impl Graph {
    /// The nodes of one kind.
    pub fn of_kind(&self, kind: NodeKind) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.node.kind == kind)
    }

    /// The graph as a Mermaid flow chart. Equal graphs give equal text, and a name is shown as it is, whatever is in it.
    ///
    /// ```
    /// use mlops_core::lineage::{Edge, Graph, NodeRef};
    /// let edges = vec![Edge::new(NodeRef::model("prices", 3), NodeRef::deployment("web"))];
    /// let chart = Graph { nodes: Vec::new(), edges }.to_mermaid();
    /// assert_eq!(chart, "flowchart LR\n  n0[\"model prices/3\"]\n  n1[\"deployment web\"]\n  n0 --> n1\n");
    /// ```
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.draw("flowchart LR\n", "", |text, place, node| {
            let _ = writeln!(text, "  n{place}[\"{}\"]", mermaid_label(&node.to_string()));
        })
    }

    /// The graph in the DOT language of Graphviz, with a shape for each kind. Equal graphs give equal text, and a name is
    /// shown as it is, whatever is in it.
    ///
    /// ```
    /// let empty = mlops_core::lineage::Graph::default();
    /// assert_eq!(empty.to_dot(), "digraph lineage {\n  rankdir=LR;\n}\n");
    /// ```
    #[must_use]
    pub fn to_dot(&self) -> String {
        self.draw("digraph lineage {\n  rankdir=LR;\n", "}\n", |text, place, node| {
            let shape = match node.kind {
                NodeKind::Dataset => "cylinder",
                NodeKind::Job | NodeKind::Run | NodeKind::Step => "box",
                NodeKind::Model => "component",
                NodeKind::Deployment => "house",
                NodeKind::Prediction | NodeKind::PredictionBatch => "note",
            };
            let _ = writeln!(text, "  n{place} [label=\"{}\", shape={shape}];", dot_label(&node.to_string()));
        })
    }

    /// Nodes, then edges; nodes that only an edge names come last. Writing to a `String` cannot fail.
    fn draw(&self, open: &str, close: &str, declare: impl Fn(&mut String, usize, &NodeRef)) -> String {
        let mut text = open.to_owned();
        let mut places = BTreeMap::new();
        let ends = self.edges.iter().flat_map(|e| [&e.from, &e.to]);
        for node in self.nodes.iter().map(|n| &n.node).chain(ends) {
            let next = places.len();
            if !places.contains_key(node) {
                places.insert(node, next);
                declare(&mut text, next, node);
            }
        }
        let (arrow, end) = if close.is_empty() { ("-->", "") } else { ("->", ";") };
        for edge in &self.edges {
            let _ = writeln!(text, "  n{} {arrow} n{}{end}", places[&edge.from], places[&edge.to]);
        }
        text.push_str(close);
        text
    }
}

/// Letters, digits and what no reader of Mermaid looks at stay; the rest is written as `#code;`.
fn mermaid_label(text: &str) -> String {
    let mut label = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if c.is_alphanumeric() || " -_./:@,+=".contains(c) => label.push(c),
            _ if c.is_control() => label.push(' '),
            _ => {
                let _ = write!(label, "#{};", u32::from(c));
            }
        }
    }
    label
}

fn dot_label(text: &str) -> String {
    let mut label = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => label.extend(['\\', c]),
            // Graphviz reads character references within labels.
            '&' => label.push_str("&amp;"),
            _ if c.is_control() => label.push(' '),
            _ => label.push(c),
        }
    }
    label
}
