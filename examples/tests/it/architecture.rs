//! Which crate may import which: ARCHITECTURE.md says it, the manifests must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Edges = BTreeMap<String, BTreeSet<String>>;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Reads the rows `| `crate` | `import`, `import` |` of the table of allowed imports.
fn allowed() -> Edges {
    let text = std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("## Allowed imports").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = table.lines().filter(|line| line.starts_with("| `mlops-"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|');
        let crates = names(cells.next().unwrap());
        (crates[0].clone(), names(cells.next().unwrap()).into_iter().collect())
    })
    .collect()
}

/// Reads the members' imports of each other from their manifests, other than of themselves in tests.
fn found() -> Edges {
    let manifest = |dir: &str| -> toml::Table {
        std::fs::read_to_string(workspace().join(dir).join("Cargo.toml")).unwrap().parse().unwrap()
    };
    let members = manifest(".")["workspace"]["members"].as_array().unwrap().clone();
    let mut edges = Edges::new();
    for member in members {
        let table = manifest(member.as_str().unwrap());
        let name = table["package"]["name"].as_str().unwrap().to_owned();
        let mut imports = BTreeSet::new();
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let names = table.get(kind).and_then(|t| t.as_table()).into_iter().flat_map(|t| t.keys());
            imports.extend(names.filter(|n| n.starts_with("mlops-") && **n != name).cloned());
        }
        edges.insert(name, imports);
    }
    edges
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let allowed = allowed();
    assert_eq!(allowed.len(), 7, "the table has a row for each member: {allowed:?}");
    for (name, imports) in found() {
        let may = allowed.get(&name).unwrap_or_else(|| panic!("{name} has no row in ARCHITECTURE.md"));
        let more: Vec<_> = imports.difference(may).collect();
        assert!(more.is_empty(), "{name} imports {more:?}, which ARCHITECTURE.md does not allow");
    }
}
