//! What went wrong with a call, in this crate's words.

use hyper::StatusCode;
use mlops_core::Error as CoreError;
use serde::Deserialize;

use super::BACKEND;
use super::http::Call;
use crate::Error;

/// How much of an answer that is not MLflow's is quoted, in characters.
const EXCERPT: usize = 200;
/// How much of a message of the server's is kept.
const MESSAGE: usize = 1_000;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server said no, in MLflow's form.
    Refused { status: StatusCode, code: String, message: String, passes: bool },
    /// No answer, or one that is not MLflow's.
    Broken { retryable: bool, source: Box<dyn std::error::Error + Send + Sync> },
}

#[derive(Deserialize)]
struct Refusal {
    error_code: String,
    #[serde(default)]
    message: String,
}

fn start(text: &str, most: usize) -> String {
    let mut start: String = text.chars().take(most).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

/// The beginning of an answer on one line.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT)]);
    start(&text.split_whitespace().collect::<Vec<_>>().join(" "), EXCERPT)
}

impl Fault {
    pub(super) fn broken(retryable: bool, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken { retryable, source: source.into() }
    }

    /// An answer with a status that is not a success.
    pub(super) fn answered(status: StatusCode, body: &[u8], passes: bool) -> Self {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { error_code, message }) => {
                Self::Refused { status, code: error_code, message: start(&message, MESSAGE), passes }
            }
            // A proxy's page, or another program at that address.
            Err(_) => Self::broken(passes, format!("answered {status}, not in MLflow's form: {:?}", excerpt(body))),
        }
    }

    /// An answer that is a success but not what the call asks for.
    pub(super) fn unread(body: &[u8], error: &serde_json::Error) -> Self {
        Self::broken(false, format!("the answer is not MLflow's ({error}): {:?}", excerpt(body)))
    }

    fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Broken { .. } => "",
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.code() == "RESOURCE_DOES_NOT_EXIST"
    }

    /// MLflow says of a missing alias that the parameter is invalid.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.code(), "INVALID_PARAMETER_VALUE" | "BAD_REQUEST")
    }

    pub(super) fn error(self, call: &Call<'_>, base: &str) -> Error {
        let (what, name) = (call.what, call.name);
        let (status, code, message, passes) = match self {
            Self::Broken { retryable, source } => {
                let key = if name.is_empty() { base.to_owned() } else { format!("{what} {name} at {base}") };
                let (backend, operation) = (BACKEND.to_owned(), call.operation);
                return CoreError::Backend { backend, operation, key, retryable, source }.into();
            }
            Self::Refused { status, code, message, passes } => (status, code, message, passes),
        };
        // Said of experiments, runs and what is in them; MLflow has no code of its own for it.
        let inactive = message.contains("must be in the 'active'") || message.contains("non-active experiment");
        let core = match (code.as_str(), status.as_u16()) {
            ("RESOURCE_ALREADY_EXISTS", _) => CoreError::AlreadyExists { what, name: name.to_owned() },
            ("RESOURCE_DOES_NOT_EXIST" | "NOT_FOUND", _) => CoreError::not_found(what, name),
            ("RESOURCE_CONFLICT" | "INVALID_STATE" | "INVALID_PARAMETER_VALUE", _) if inactive => {
                let (expected, found) = ("in use".to_owned(), "deleted".to_owned());
                CoreError::Conflict { what, name: name.to_owned(), expected, found }
            }
            ("RESOURCE_CONFLICT", _) | (_, 409) => {
                let expected = "what this call needs".to_owned();
                CoreError::Conflict { what, name: name.to_owned(), expected, found: message }
            }
            ("PERMISSION_DENIED", _) | (_, 403) => CoreError::PermissionDenied {
                principal: call.who.unwrap_or("the client").to_owned(),
                permission: call.operation,
                resource: format!("{what} {name}"),
                remedy: format!("{BACKEND}: {message}"),
            },
            ("UNAUTHENTICATED" | "CUSTOMER_UNAUTHORIZED", _) | (_, 401) => {
                CoreError::unauthenticated(format!("{BACKEND}: {message}"))
            }
            ("INVALID_PARAMETER_VALUE" | "BAD_REQUEST" | "MALFORMED_REQUEST", _) | (_, 400) => {
                CoreError::invalid(what, start(&message, EXCERPT))
            }
            _ => CoreError::Backend {
                backend: BACKEND.to_owned(),
                operation: call.operation,
                key: format!("{what} {name} at {base}"),
                retryable: passes,
                source: format!("answered {status}, {code}: {message}").into(),
            },
        };
        core.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: u16, body: &str) -> String {
        let call = Call::post("start", "runs/create", json!({})).about("run", "r");
        let fault = Fault::answered(StatusCode::from_u16(status).unwrap(), body.as_bytes(), status == 503);
        mlops_core::with_causes(&fault.error(&call, "http://h"))
    }

    #[test]
    fn codes_become_errors_with_the_servers_words() {
        let said = |code: &str, message: &str| json!({ "error_code": code, "message": message }).to_string();
        for (status, body, expected) in [
            (404, said("RESOURCE_DOES_NOT_EXIST", "x"), "run \"r\" not found"),
            (400, said("RESOURCE_ALREADY_EXISTS", "x"), "run \"r\" exists already"),
            (400, said("INVALID_PARAMETER_VALUE", "too long"), "invalid run: too long"),
            (
                400,
                said("INVALID_PARAMETER_VALUE", "The run r must be in the 'active' state. Current state is deleted."),
                "run \"r\" has changed: expected in use, found deleted",
            ),
            (
                403,
                said("PERMISSION_DENIED", "no"),
                "the client may not start on run r: needs a role that grants it (MLflow server: no)",
            ),
            (401, said("UNAUTHENTICATED", "who?"), "not authenticated: MLflow server: who?"),
            (
                500,
                said("INTERNAL_ERROR", "oops"),
                "MLflow server could not start \"run r at http://h\": answered 500 Internal Server Error, \
                 INTERNAL_ERROR: oops",
            ),
        ] {
            assert_eq!(told(status, &body), expected);
        }
    }

    #[test]
    fn a_proxys_page_is_quoted_in_part() {
        let page = format!("<html>\n  <h1>Bad gateway</h1>{}", "é".repeat(10_000));
        let text = told(502, &page);
        let expected = "answered 502 Bad Gateway, not in MLflow's form: \"<html> <h1>Bad gateway</h1>é";
        assert!(text.contains(expected), "{text}");
        assert!(text.chars().count() < 400, "{text}");
        assert!(told(404, "").contains("answered 404 Not Found, not in MLflow's form: \"\""));
    }
}
