//! Who calls, and what they may look at.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mlops_core::auth::Credential;
use mlops_core::{Permission, Principal, Resource};

use super::Server;
use super::failure::{Answer, Failure};
use crate::mlflow::wire::Code;

/// Reads the `Authorization` header.
pub(super) fn credential(headers: &HeaderMap) -> Answer<Credential> {
    let refuse = |message: &str| Failure::new(Code::Unauthenticated, message);
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Credential::None) };
    let value = value.to_str().map_err(|_| refuse("the Authorization header is not text"))?;
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credential::Bearer(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(refuse("the Authorization header must be `Bearer TOKEN` or `Basic NAME:PASSWORD` in base64"));
    }
    let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok(Credential::Basic { user: user.to_owned(), password: password.to_owned() }),
        None => Err(refuse("the Authorization header is not base64 of NAME:PASSWORD")),
    }
}

/// `host` without its port, in lower case.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

/// Why a call is not for this server: a browser sends it for a page of another site, or it is addressed to a name that is
/// not this server's. Python clients send no `Origin`.
fn foreign(server: &Server, request: &Request) -> Option<String> {
    let text = |name: header::HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).or_else(|| request.uri().authority().map(|a| a.as_str())).unwrap_or_default();
    if server.hosts.as_ref().is_some_and(|hosts| !hosts.contains(&host_name(host))) {
        return Some(format!("this server is not called {host:?}"));
    }
    let elsewhere = |origin: &str| origin.split_once("://").is_none_or(|(_, from)| !from.eq_ignore_ascii_case(host));
    let cross_site = text(header::HeaderName::from_static("sec-fetch-site")) == Some("cross-site");
    (cross_site || text(header::ORIGIN).is_some_and(elsewhere))
        .then(|| "calls from pages of other sites are refused".to_owned())
}

pub(super) async fn from_here(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match foreign(&server, &request) {
        Some(message) => Failure::new(Code::PermissionDenied, message).into_response(),
        None => next.run(request).await,
    }
}

impl Server {
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Answer<Principal> {
        Ok(self.authenticator.authenticate(&credential(headers)?).await?)
    }

    /// Reading is open in the registry; here, at the edge, it is asked for.
    pub(super) fn may(&self, who: &Principal, permission: Permission, on: Resource) -> Answer<()> {
        let on = match &self.project {
            Some(project) => on.in_project(project),
            None => on,
        };
        Ok(self.authorizer.check(who, permission, &on)?)
    }

    pub(super) fn may_read(&self, who: &Principal, on: Resource) -> Answer<()> {
        self.may(who, Permission::Read, on)
    }

    pub(super) fn sees(&self, who: &Principal, on: Resource) -> bool {
        self.may_read(who, on).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Answer<Credential> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        credential(&headers)
    }

    #[test]
    fn both_schemes_are_read_whatever_their_case() {
        assert_eq!(credential(&HeaderMap::new()).unwrap(), Credential::None);
        assert_eq!(read("bEARER  abc ").unwrap(), Credential::Bearer("abc".into()));
        // base64 of `ana:a:b`
        let expected = Credential::Basic { user: "ana".into(), password: "a:b".into() };
        assert_eq!(read("basic YW5hOmE6Yg==").unwrap(), expected);
        assert_eq!(format!("{expected:?}"), "Basic(\"ana\", ***)");
        for bad in ["Digest x", "Basic", "Basic ???", "Basic YW5h", "Basic /w=="] {
            let failure = read(bad).unwrap_err();
            assert_eq!(failure.code, Code::Unauthenticated, "{bad}");
            assert!(!failure.message.contains("YW5h"), "{bad}");
        }
    }
}
