use mlops_core::package::{Manifest, Package};
use mlops_core::{ArtifactStore, Provenance};

use super::ModelCard;
use crate::{ModelRegistry, Result, RunInput, TrackingStore};

impl ModelCard {
    /// What a registry knows of a version: the model and the version, the run that made it with its settings and data, the
    /// aliases that point at it, and every promotion with evidence and approvals. A run that is tracked elsewhere is not
    /// stated. [`ModelCard::read_package`] adds what the package says.
    ///
    /// # Errors
    /// [`NotFound`](mlops_core::Error::NotFound) for the model or the version; those of the registry.
    pub async fn gather<R: ModelRegistry + TrackingStore + ?Sized>(
        registry: &R,
        model: &str,
        version: u64,
    ) -> Result<Self> {
        let found = registry.version(model, version).await?;
        let model = registry.model(model).await?;
        let aliases = registry.aliases(&model.name).await?;
        let mut promotions = registry.promotions(&model.name).await?;
        promotions.retain(|promotion| promotion.version == version);
        let run = match found.run {
            Some(id) => match registry.run(id).await {
                Ok(run) => Some(run),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let mut tags = model.tags;
        tags.extend(found.tags);
        let mut card = Self {
            model: model.name,
            version: Some(version),
            description: model.description,
            changes: found.description,
            tags,
            author: Some(found.author),
            created_at: Some(found.created_at),
            aliases: aliases.into_iter().filter(|alias| alias.version == version).map(|alias| alias.alias).collect(),
            package: Some(found.package),
            datasets: run.as_ref().map(|run| run.inputs.clone()).unwrap_or_default(),
            run,
            promotions,
            ..Self::default()
        };
        card.aliases.sort();
        Ok(card)
    }

    /// Adds what the package says: files, runtimes, signature and provenance. Of its files only `MLmodel` and
    /// `provenance.json` are read. Does nothing to a card without a package.
    ///
    /// # Errors
    /// [`NotFound`](mlops_core::Error::NotFound), [`Corrupt`](mlops_core::Error::Corrupt) or
    /// [`InvalidInput`](mlops_core::Error::InvalidInput) if the package cannot be read; those of the store.
    pub async fn read_package(mut self, store: &dyn ArtifactStore) -> Result<Self> {
        let Some(digest) = self.package else { return Ok(self) };
        let manifest = Manifest::load(store, &digest).await?;
        let model = manifest.model(store).await?;
        let provenance = match manifest.provenance(store).await {
            Ok(provenance) => Some(provenance),
            Err(mlops_core::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.files = manifest.files().clone();
        self.flavors = model.flavors.into_keys().collect();
        self.signature = model.signature;
        self.state(provenance);
        Ok(self)
    }

    /// Adds what a package in memory says, as [`ModelCard::read_package`] does.
    ///
    /// # Errors
    /// [`InvalidInput`](mlops_core::Error::InvalidInput) if its provenance cannot be read.
    pub fn with_package(mut self, package: &Package) -> Result<Self> {
        let provenance = match package.provenance() {
            Ok(provenance) => Some(provenance),
            Err(mlops_core::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.package = Some(package.digest()?);
        self.files = package.manifest().files().clone();
        self.flavors = package.model().flavors.keys().cloned().collect();
        self.signature = package.model().signature.clone();
        self.state(provenance);
        Ok(self)
    }

    fn state(&mut self, provenance: Option<Provenance>) {
        for dataset in provenance.iter().flat_map(|p| &p.datasets) {
            if !self.datasets.iter().any(|input| input.dataset_ref().as_ref() == Some(dataset)) {
                self.datasets.push(RunInput::of(dataset, "training"));
            }
        }
        self.datasets.sort();
        self.provenance = provenance;
    }
}
