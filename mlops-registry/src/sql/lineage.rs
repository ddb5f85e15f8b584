use std::collections::{BTreeMap, BTreeSet, VecDeque};

use async_trait::async_trait;
use mlops_core::lineage::{Edge, Graph, LineageStore, Node, NodeRef};
use mlops_core::{Error, Result};

use super::SqlRegistry;
use super::db::{self, Backend as _, Conn};
use crate::check;

/// Records nodes and edges within the caller's transaction.
pub(super) async fn record(conn: &mut Conn, nodes: &[Node], edges: &[Edge]) -> Result<()> {
    let named = nodes.iter().map(|n| &n.node).chain(edges.iter().flat_map(|e| [&e.from, &e.to]));
    for node in named.collect::<BTreeSet<_>>() {
        check::node(node)?;
        db::query("INSERT INTO lineage_nodes (kind, id) VALUES ($1, $2) ON CONFLICT (kind, id) DO NOTHING")
            .bind(node.kind.as_str())
            .bind(&node.id)
            .execute(&mut *conn)
            .await
            .during("record lineage of", &node.id)?;
    }
    for Node { node, facts } in nodes {
        for (name, value) in facts {
            db::query(
                "INSERT INTO lineage_facts (kind, id, name, value) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (kind, id, name) DO UPDATE SET value = excluded.value",
            )
            .bind(node.kind.as_str())
            .bind(&node.id)
            .bind(name)
            .bind(value)
            .execute(&mut *conn)
            .await
            .during("record lineage of", &node.id)?;
        }
    }
    for Edge { from, to } in edges {
        db::query(
            "INSERT INTO lineage_edges (from_kind, from_id, to_kind, to_id) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (from_kind, from_id, to_kind, to_id) DO NOTHING",
        )
        .bind(from.kind.as_str())
        .bind(&from.id)
        .bind(to.kind.as_str())
        .bind(&to.id)
        .execute(&mut *conn)
        .await
        .during("record lineage of", &from.id)?;
    }
    Ok(())
}

async fn exists(conn: &mut Conn, node: &NodeRef) -> Result<bool> {
    // Typed, as PostgreSQL would give a 32-bit number.
    let query = "SELECT CAST(1 AS BIGINT) FROM lineage_nodes WHERE kind = $1 AND id = $2";
    let found: Option<i64> = db::query(query)
        .bind(node.kind.as_str())
        .bind(&node.id)
        .fetch_optional(conn)
        .await
        .during("read lineage of", &node.id)?;
    Ok(found.is_some())
}

async fn facts(conn: &mut Conn, node: &NodeRef) -> Result<BTreeMap<String, String>> {
    let rows: Vec<(String, String)> = db::query("SELECT name, value FROM lineage_facts WHERE kind = $1 AND id = $2")
        .bind(node.kind.as_str())
        .bind(&node.id)
        .fetch_all(conn)
        .await
        .during("read lineage of", &node.id)?;
    Ok(rows.into_iter().collect())
}

async fn neighbours(conn: &mut Conn, node: &NodeRef, upstream: bool) -> Result<BTreeSet<NodeRef>> {
    let query = if upstream {
        "SELECT from_kind, from_id FROM lineage_edges WHERE to_kind = $1 AND to_id = $2"
    } else {
        "SELECT to_kind, to_id FROM lineage_edges WHERE from_kind = $1 AND from_id = $2"
    };
    let rows: Vec<(String, String)> = db::query(query)
        .bind(node.kind.as_str())
        .bind(&node.id)
        .fetch_all(conn)
        .await
        .during("read lineage of", &node.id)?;
    rows.into_iter().map(|(kind, id)| Ok(NodeRef { kind: db::from_word(&kind)?, id })).collect()
}

impl SqlRegistry {
    async fn walk(&self, start: &NodeRef, depth: usize, upstream: bool) -> Result<Graph> {
        let mut tx = self.read("read lineage of", &start.id).await?;
        if !exists(&mut tx, start).await? {
            return Err(Error::not_found("lineage node", start));
        }
        let mut graph = Graph::default();
        let mut seen = BTreeSet::from([start.clone()]);
        let mut queue = VecDeque::from([(start.clone(), 0)]);
        while let Some((node, at)) = queue.pop_front() {
            let facts = facts(&mut tx, &node).await?;
            if at < depth {
                for there in neighbours(&mut tx, &node, upstream).await? {
                    let (from, to) = if upstream { (&there, &node) } else { (&node, &there) };
                    graph.edges.push(Edge::new(from.clone(), to.clone()));
                    if seen.insert(there.clone()) {
                        queue.push_back((there, at + 1));
                    }
                }
            }
            graph.nodes.push(Node { node, facts });
        }
        Ok(graph)
    }
}

#[async_trait]
impl LineageStore for SqlRegistry {
    async fn record(&self, nodes: &[Node], edges: &[Edge]) -> Result<()> {
        Ok(transaction!(self.write("record", "lineage"), |writing| {
            record(&mut writing.tx, nodes, edges).await?;
            Ok(())
        })?)
    }

    async fn upstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        self.walk(node, depth, true).await
    }

    async fn downstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        self.walk(node, depth, false).await
    }
}
