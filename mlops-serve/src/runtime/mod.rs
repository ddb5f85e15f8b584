//! From a package to a model that answers.
//!
//! A runtime loads one flavor of package. [`Runtimes`] holds those a service wants and picks the first that fits:
//!
//! ```
//! use mlops_serve::runtime::Runtimes;
//! let runtimes = Runtimes::default(); // those compiled in
//! # #[cfg(feature = "candle")]
//! assert_eq!(runtimes.flavors(), ["candle"]);
//! ```

#[cfg(feature = "candle")]
#[cfg_attr(docsrs, doc(cfg(feature = "candle")))]
pub mod candle;

use std::fmt::Debug;
use std::sync::Arc;

use mlops_core::{Package, Predictor};

use crate::{Error, Result};

/// Loads packages of one flavor.
///
/// # Contract
/// - **Complete.** A predictor that `load` returned needs nothing more from the package, the disk or the network.
/// - **Careful.** A package that is damaged or does not fit is [`Error::InvalidModel`] naming the file, never a panic.
/// - **Pure.** One package, one behaviour.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// The flavor it loads, as named in `MLmodel`.
    fn flavor(&self) -> &'static str;

    /// Loads the model.
    ///
    /// # Errors
    /// [`Error::InvalidModel`].
    fn load(&self, package: &Package) -> Result<Arc<dyn Predictor>>;
}

/// The runtimes a service can load models with, in order of preference.
#[derive(Clone, Debug)]
pub struct Runtimes(Vec<Arc<dyn Runtime>>);

impl Default for Runtimes {
    /// Every runtime that is compiled in, with its defaults.
    fn default() -> Self {
        #[allow(unused_mut)]
        let mut runtimes = Self::none();
        #[cfg(feature = "candle")]
        {
            runtimes = runtimes.with(candle::CandleRuntime::default());
        }
        runtimes
    }
}

impl Runtimes {
    /// No runtime yet.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds a runtime, in place of one of the same flavor if there is one.
    #[must_use]
    pub fn with(mut self, runtime: impl Runtime) -> Self {
        self.0.retain(|r| r.flavor() != runtime.flavor());
        self.0.push(Arc::new(runtime));
        self
    }

    /// The flavors that can be loaded.
    #[must_use]
    pub fn flavors(&self) -> Vec<&'static str> {
        self.0.iter().map(|r| r.flavor()).collect()
    }

    /// Loads a package with the first runtime that knows one of its flavors.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] listing what the package offers and what is at hand; those of [`Runtime::load`].
    pub fn load(&self, package: &Package) -> Result<Arc<dyn Predictor>> {
        let flavors = &package.model().flavors;
        if let Some(runtime) = self.0.iter().find(|r| flavors.contains_key(r.flavor())) {
            return runtime.load(package);
        }
        let names: Vec<&str> = flavors.keys().map(String::as_str).collect();
        let hint = match names.contains(&"candle") {
            true if cfg!(not(feature = "candle")) => "; enable the feature `candle` of mlops-serve",
            _ => "",
        };
        Err(Error::NoRuntime {
            model: package.model().model_uuid.clone().unwrap_or_else(|| "package".to_owned()),
            flavors: names.join(", "),
            runtimes: self.flavors().join(", "),
            hint,
        })
    }
}
