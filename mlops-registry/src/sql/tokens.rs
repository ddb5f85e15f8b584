use async_trait::async_trait;
use mlops_core::audit::AuditEvent;
use mlops_core::auth::token::{StoredToken, TokenInfo, TokenStore};
use mlops_core::{Error, Principal, Result, Timestamp, TokenId};

use super::SqlRegistry;
use super::audit;
use super::db::{self, Backend as _, Conn};

db::row! {
    struct Row {
        id: String,
        hash: String,
        speaks_as: String,
        grants: String,
        issuer: String,
        created_at: i64,
        expires_at: i64,
        revoked_at: Option<i64>,
    }
}

impl Row {
    fn token(self) -> Result<StoredToken> {
        let who = Principal { name: self.speaks_as, grants: db::from_json(&self.grants)? };
        let (created_at, expires_at) = (db::time(self.created_at), db::time(self.expires_at));
        let mut info = TokenInfo::new(db::from_text(&self.id)?, who, self.issuer, created_at, expires_at);
        info.revoked_at = self.revoked_at.map(db::time);
        Ok(StoredToken { info, hash: db::from_text(&self.hash)? })
    }
}

async fn find(conn: &mut Conn, id: TokenId) -> Result<Option<StoredToken>> {
    let row: Option<Row> = db::query("SELECT * FROM api_tokens WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .during("read token", &id.to_string())?;
    row.map(Row::token).transpose()
}

#[async_trait]
impl TokenStore for SqlRegistry {
    async fn insert(&self, token: StoredToken, event: AuditEvent) -> Result<()> {
        let StoredToken { info, hash } = token;
        let id = info.id.to_string();
        Ok(transaction!(self.write("issue token", &id), |writing| {
            let done = db::query(
                "INSERT INTO api_tokens (id, hash, speaks_as, grants, issuer, created_at, expires_at, revoked_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
            )
            .bind(&id)
            .bind(hash.to_string())
            .bind(&info.speaks_as)
            .bind(db::json(&info.grants)?)
            .bind(&info.issuer)
            .bind(info.created_at.timestamp_micros())
            .bind(info.expires_at.timestamp_micros())
            .bind(info.revoked_at.map(|at| at.timestamp_micros()))
            .execute(&mut writing.tx)
            .await
            .during("issue token", &id)?;
            if done == 0 {
                return Err(Error::AlreadyExists { what: "token", name: id.clone() }.into());
            }
            audit::append(&mut writing.tx, event.clone()).await?;
            Ok(())
        })?)
    }

    async fn find(&self, id: TokenId) -> Result<Option<StoredToken>> {
        find(&mut self.read("read token", &id.to_string()).await?, id).await
    }

    async fn revoke(&self, id: TokenId, at: Timestamp, event: AuditEvent) -> Result<TokenInfo> {
        let name = id.to_string();
        Ok(transaction!(self.write("revoke token", &name), |writing| {
            let mut token = find(&mut writing.tx, id).await?.ok_or_else(|| Error::not_found("token", id))?.info;
            if token.revoked_at.is_some() {
                return Ok(token);
            }
            token.revoked_at = Some(db::time(at.timestamp_micros()));
            db::query("UPDATE api_tokens SET revoked_at = $1 WHERE id = $2")
                .bind(at.timestamp_micros())
                .bind(&name)
                .execute(&mut writing.tx)
                .await
                .during("revoke token", &name)?;
            audit::append(&mut writing.tx, event.clone()).await?;
            Ok(token)
        })?)
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>> {
        let rows: Vec<Row> = db::query("SELECT * FROM api_tokens ORDER BY created_at, id")
            .fetch_all(&self.0.database)
            .await
            .during("list", "tokens")?;
        rows.into_iter().map(|row| Ok(row.token()?.info)).collect()
    }
}
