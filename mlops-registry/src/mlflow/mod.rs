//! MLflow's REST contract, so that Python colleagues use this registry without noticing, and this toolkit an MLflow server
//! that is there already.
//!
//! The names of this module are MLflow's: experiments have ids, versions are strings, times are milliseconds.

#[cfg(feature = "mlflow-client")]
#[cfg_attr(docsrs, doc(cfg(feature = "mlflow-client")))]
pub mod client;
#[cfg(feature = "mlflow-server")]
#[cfg_attr(docsrs, doc(cfg(feature = "mlflow-server")))]
pub mod server;
mod wire;
