//! Who calls, and what they may look at.

use axum::http::{HeaderMap, header};
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
