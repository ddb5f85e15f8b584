//! MLflow's REST contract, so that Python colleagues use this registry without noticing.
//!
//! The names of this module are MLflow's: experiments have ids, versions are strings, times are milliseconds.

#[cfg(feature = "mlflow-server")]
#[cfg_attr(docsrs, doc(cfg(feature = "mlflow-server")))]
pub mod server;
mod wire;
