//! Detectors chosen by configuration.

use serde::{Deserialize, Serialize};

use super::{
    Adwin, AdwinBuilder, ChangeDetector, Cusum, CusumBuilder, Ddm, DdmBuilder, EDetector, EDetectorBuilder, Ecdd,
    EcddBuilder, Eddm, EddmBuilder, Ewma, EwmaBuilder, HddmA, HddmABuilder, HddmW, HddmWBuilder, Kswin, KswinBuilder,
    PageHinkley, PageHinkleyBuilder, Rddm, RddmBuilder, Shewhart, ShewhartBuilder, State, Stepd, StepdBuilder,
};
use crate::Result;

macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident($builder:ident),)+) => {
        /// Options of some detector, as a configuration file has them: `method` names it, the other fields are the options
        /// that differ from their defaults. Unknown fields are errors.
        ///
        /// # Examples
        /// ```
        /// use mlops_monitor::change::{ChangeDetector, DetectorConfig};
        ///
        /// let config: DetectorConfig = serde_json::from_str(r#"{"method": "page_hinkley", "threshold": 20.0}"#)?;
        /// let detector: Box<dyn ChangeDetector> = Box::new(config.build()?);
        /// assert_eq!(detector.name(), "page_hinkley");
        /// assert!(serde_json::from_str::<DetectorConfig>(r#"{"method": "ddm", "threshold": 20.0}"#).is_err());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "method", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum DetectorConfig {
            $($(#[$doc])* $method($builder),)+
        }

        impl DetectorConfig {
            /// Makes the detector.
            ///
            /// # Errors
            /// [`Error::InvalidInput`](crate::Error::InvalidInput) naming the first option out of range.
            pub fn build(self) -> Result<Detector> {
                Ok(match self {
                    $(Self::$method(options) => Detector::$method(Box::new(options.build()?)),)+
                })
            }
        }

        /// Some detector, with its whole state: what a [`DetectorConfig`] makes, to be stored between restarts.
        ///
        /// # Examples
        /// ```
        /// use mlops_monitor::change::{Adwin, ChangeDetector, Detector};
        ///
        /// let mut detector = Detector::from(Adwin::builder().build()?);
        /// detector.update(0.5)?;
        /// let stored = serde_json::to_string(&detector)?;
        /// assert!(stored.starts_with(r#"{"method":"adwin","#));
        /// assert_eq!(serde_json::from_str::<Detector>(&stored)?, detector);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "method", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Detector {
            $($(#[$doc])* $method(Box<$method>),)+
        }

        $(
            impl From<$method> for Detector {
                fn from(detector: $method) -> Self {
                    Self::$method(Box::new(detector))
                }
            }

            impl From<$builder> for DetectorConfig {
                fn from(options: $builder) -> Self {
                    Self::$method(options)
                }
            }
        )+

        #[deny(clippy::missing_trait_methods)]
        impl ChangeDetector for Detector {
            fn name(&self) -> &'static str {
                match self { $(Self::$method(detector) => detector.name(),)+ }
            }

            fn update(&mut self, x: f64) -> Result<State> {
                match self { $(Self::$method(detector) => detector.update(x),)+ }
            }

            fn state(&self) -> State {
                match self { $(Self::$method(detector) => detector.state(),)+ }
            }

            fn estimate(&self) -> Option<f64> {
                match self { $(Self::$method(detector) => detector.estimate(),)+ }
            }

            fn n(&self) -> u64 {
                match self { $(Self::$method(detector) => detector.n(),)+ }
            }

            fn changed_at(&self) -> Option<u64> {
                match self { $(Self::$method(detector) => detector.changed_at(),)+ }
            }

            fn reset(&mut self) {
                match self { $(Self::$method(detector) => detector.reset(),)+ }
            }
        }
    };
}

methods! {
    /// Adaptive windowing.
    Adwin(AdwinBuilder),
    /// Cumulative sums.
    Cusum(CusumBuilder),
    /// Drift detection method.
    Ddm(DdmBuilder),
    /// E-detector.
    EDetector(EDetectorBuilder),
    /// EWMA for concept drift detection.
    Ecdd(EcddBuilder),
    /// Early drift detection method.
    Eddm(EddmBuilder),
    /// Chart of an exponentially weighted moving average.
    Ewma(EwmaBuilder),
    /// Hoeffding's bound on averages.
    HddmA(HddmABuilder),
    /// McDiarmid's bound on weighted averages.
    HddmW(HddmWBuilder),
    /// Kolmogorov–Smirnov windowing.
    Kswin(KswinBuilder),
    /// Page–Hinkley.
    PageHinkley(PageHinkleyBuilder),
    /// Reactive drift detection method.
    Rddm(RddmBuilder),
    /// Shewhart chart.
    Shewhart(ShewhartBuilder),
    /// Statistical test of equal proportions.
    Stepd(StepdBuilder),
}
