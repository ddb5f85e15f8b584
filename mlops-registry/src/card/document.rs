use mlops_core::Measurement;
use mlops_core::verdict::short;

use super::ModelCard;

/// What stands where a fact is missing.
pub(super) const UNSTATED: &str = "not stated";

/// Whether a character is not seen, or turns the direction of what is.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A card as a document, before it is Markdown or HTML. All text is plain.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) title: String,
    /// Paragraphs under the title.
    pub(super) lead: Vec<String>,
    pub(super) sections: Vec<(&'static str, Vec<Block>)>,
}

#[derive(Debug)]
pub(super) enum Block {
    /// A line of text.
    Text(String),
    /// Names and values.
    Facts(Vec<(&'static str, String)>),
    /// What a list is of, and its items.
    List(&'static str, Vec<String>),
    /// A head, and rows of as many cells.
    Table(Vec<&'static str>, Vec<Vec<String>>),
}

fn or_unstated(text: impl Into<String>) -> String {
    let text = text.into();
    if text.trim().is_empty() { UNSTATED.to_owned() } else { text }
}

fn maybe(value: Option<impl ToString>) -> String {
    or_unstated(value.map(|v| v.to_string()).unwrap_or_default())
}

fn joined(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    or_unstated(items.join(", "))
}

pub(super) fn interval(measurement: &Measurement) -> Option<String> {
    measurement.interval.map(|(low, high)| format!("{} to {}", short(low), short(high)))
}

impl ModelCard {
    pub(super) fn document(&self) -> Document {
        let lead = [&self.description, &self.changes];
        Document {
            title: self.title(),
            lead: lead.into_iter().filter(|text| !text.trim().is_empty()).cloned().collect(),
            sections: vec![
                ("At a glance", vec![self.glance()]),
                ("Use", self.uses()),
                ("Evaluation", vec![self.evaluated()]),
                ("Fairness", vec![self.fair()]),
                ("Training", self.training()),
                ("Approvals", self.approvals()),
                ("Files", vec![self.listed()]),
            ],
        }
    }

    fn glance(&self) -> Block {
        let registered = self.author.as_ref().map(|author| {
            let at = self.created_at.map(|at| at.format(" at %Y-%m-%d %H:%M UTC").to_string());
            format!("{author}{}", at.unwrap_or_default())
        });
        let tags =
            self.tags.iter().map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key}={value}") });
        Block::Facts(vec![
            ("Version", maybe(self.version)),
            ("In use as", joined(&self.aliases)),
            ("Task", maybe(self.task.as_ref())),
            ("Takes and gives", maybe(self.signature.as_ref())),
            ("Runs in", joined(&self.flavors)),
            ("Licence", maybe(self.license.as_ref())),
            ("Registered by", maybe(registered)),
            ("Package", maybe(self.package)),
            ("Tags", joined(tags)),
        ])
    }

    fn uses(&self) -> Vec<Block> {
        let risk = |risk: &super::Risk| match &*risk.mitigation {
            "" => risk.name.clone(),
            mitigation => format!("{}: {mitigation}", risk.name),
        };
        vec![
            Block::List("Intended use", self.intended_uses.clone()),
            Block::List("Users", self.users.clone()),
            Block::List("Out of scope", self.out_of_scope.clone()),
            Block::List("Limits", self.limits.clone()),
            Block::List("Risks", self.risks.iter().map(risk).collect()),
        ]
    }

    fn evaluated(&self) -> Block {
        if self.evaluations.is_empty() {
            return Block::Text(UNSTATED.to_owned());
        }
        let row = |evaluation: &super::Evaluation| {
            let m = &evaluation.measurement;
            vec![
                or_unstated(&m.name),
                short(m.value),
                maybe(interval(m)),
                maybe(m.n),
                evaluation.slice.clone().unwrap_or_else(|| "all".to_owned()),
                maybe(evaluation.dataset.as_ref()),
                maybe(m.bound.as_ref()),
            ]
        };
        let head = vec!["Metric", "Value", "Interval", "Rows", "Slice", "Data", "Wanted"];
        Block::Table(head, self.evaluations.iter().map(row).collect())
    }

    fn fair(&self) -> Block {
        if self.fairness.is_empty() {
            return Block::Text(UNSTATED.to_owned());
        }
        let row = |entry: &super::Fairness| {
            let texts = [&entry.benefits, &entry.harms, &entry.mitigation].map(or_unstated);
            [[or_unstated(&entry.group), joined(&entry.measurements)].as_slice(), &texts].concat()
        };
        let head = vec!["Group", "Measured", "Benefits", "Harms", "Mitigation"];
        Block::Table(head, self.fairness.iter().map(row).collect())
    }

    fn training(&self) -> Vec<Block> {
        let provenance = self.provenance.clone().unwrap_or_default();
        let run = self.run.as_ref();
        let told = |run: &crate::Run| {
            let name = if run.info.name.is_empty() { String::new() } else { format!("{} ", run.info.name) };
            format!("{name}{} of {}, {}", run.info.id, run.info.experiment, run.info.status)
        };
        let commit = provenance.commit.as_ref().map(|commit| match provenance.dirty {
            Some(true) => format!("{commit}, with changes that are not committed"),
            _ => commit.clone(),
        });
        let params: Vec<String> = match run {
            Some(run) if !run.params.is_empty() => run.params.iter().map(|(k, v)| format!("{k} = {v}")).collect(),
            _ => provenance.params.iter().map(|(k, v)| format!("{k} = {v}")).collect(),
        };
        let metrics = run.iter().flat_map(|run| &run.metrics);
        let metrics = metrics.map(|(key, metric)| format!("{key} {} at step {}", short(metric.value), metric.step));
        let data = self.datasets.iter().map(|input| {
            let name = format!("{}@{}", input.name, input.digest);
            if input.context.is_empty() { name } else { format!("{name} ({})", input.context) }
        });
        vec![
            Block::Facts(vec![
                ("Run", or_unstated(run.map(told).or(provenance.run.map(|id| id.to_string())).unwrap_or_default())),
                ("Code", maybe(commit)),
                ("Toolchain", maybe(provenance.toolchain)),
                ("Container image", maybe(provenance.image)),
                ("Lock file", maybe(provenance.lock_file)),
                ("Seed", maybe(provenance.seed)),
            ]),
            Block::List("Data", data.collect()),
            Block::List("Settings", params),
            Block::List("Metrics of the run", metrics.collect()),
        ]
    }

    fn approvals(&self) -> Vec<Block> {
        if self.promotions.is_empty() {
            return vec![Block::Text("no alias was ever asked to point at this version".to_owned())];
        }
        let mut blocks = Vec::new();
        for promotion in &self.promotions {
            blocks.push(Block::Text(promotion.to_string()));
            let approval = |approval: &crate::Approval| {
                let said = if approval.comment.is_empty() { String::new() } else { format!(": {}", approval.comment) };
                format!("approved by {} at {}{said}", approval.by, approval.at.format("%Y-%m-%d %H:%M"))
            };
            let evidence = promotion.evidence.iter().map(ToString::to_string);
            let items: Vec<String> = evidence.chain(promotion.approvals.iter().map(approval)).collect();
            blocks.push(Block::List("Evidence and approvals", items));
        }
        blocks
    }

    fn listed(&self) -> Block {
        if self.files.is_empty() {
            return Block::Text(UNSTATED.to_owned());
        }
        let row = |(path, file): (&String, &mlops_core::package::FileEntry)| {
            vec![path.clone(), file.bytes.to_string(), file.digest.to_string()]
        };
        Block::Table(vec!["Path", "Bytes", "BLAKE3"], self.files.iter().map(row).collect())
    }
}
