//! Errors as MLflow's client reads them: a code, a message, and the status that tells whether to try again.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mlops_core::Error as CoreError;
use serde_json::json;

use crate::Error;
use crate::mlflow::wire::Code;

pub(super) type Answer<T = serde_json::Value> = Result<T, Failure>;

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidParameterValue, message)
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceDoesNotExist, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Core(error) => match error {
                CoreError::NotFound { .. } => Code::ResourceDoesNotExist,
                CoreError::AlreadyExists { .. } => Code::ResourceAlreadyExists,
                CoreError::Conflict { .. } => Code::ResourceConflict,
                CoreError::PermissionDenied { .. } => Code::PermissionDenied,
                CoreError::Unauthenticated { .. } | CoreError::UnknownKey { .. } => Code::Unauthenticated,
                CoreError::InvalidInput { .. } | CoreError::SchemaMismatch { .. } => Code::InvalidParameterValue,
                CoreError::Backend { retryable: true, .. } => Code::TemporarilyUnavailable,
                // What a backend says of itself may name hosts, paths and accounts: it goes to the log, not to the caller.
                _ => {
                    tracing::error!(error = %crate::mlflow::server::chain(error), "MLflow call failed");
                    return Self::new(Code::InternalError, "the registry failed; its log says why");
                }
            },
            Error::ParamChanged { .. } => Code::InvalidParameterValue,
            Error::ApprovalMissing { .. } | Error::FourEyes { .. } | Error::EvidenceMissing { .. } => {
                Code::PermissionDenied
            }
            _ => Code::ResourceConflict,
        };
        if code == Code::TemporarilyUnavailable {
            tracing::warn!(error = %crate::mlflow::server::chain(&error), "MLflow call failed, and may be repeated");
            return Self::new(code, "the registry is busy; try again");
        }
        Self::new(code, error.to_string())
    }
}

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Error::Core(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Json(json!({ "error_code": self.code.as_str(), "message": self.message }));
        match self.code {
            Code::Unauthenticated => {
                (status, [(header::WWW_AUTHENTICATE, "Basic realm=\"mlflow\"")], body).into_response()
            }
            Code::TemporarilyUnavailable => (status, [(header::RETRY_AFTER, "1")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}
