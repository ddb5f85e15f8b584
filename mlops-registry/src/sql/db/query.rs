//! One statement with its parameters, and the rows that come back, whichever the database.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr as _};

use super::{Conn, Database, Failure};

/// A parameter. Booleans are stored as 0 and 1.
pub(in crate::sql) enum Arg<'q> {
    Int(Option<i64>),
    Float(f64),
    Text(Option<Cow<'q, str>>),
}

impl Arg<'_> {
    fn has_nul(&self) -> bool {
        matches!(self, Self::Text(Some(text)) if text.contains('\0'))
    }
}

macro_rules! arg_from {
    ($($from:ty, $value:ident => $arg:expr;)+) => { $(
        impl<'q> From<$from> for Arg<'q> {
            fn from($value: $from) -> Self {
                $arg
            }
        }
    )+ };
}

arg_from! {
    i64, value => Self::Int(Some(value));
    Option<i64>, value => Self::Int(value);
    bool, value => Self::Int(Some(value.into()));
    f64, value => Self::Float(value);
    &'q str, value => Self::Text(Some(value.into()));
    &'q String, value => Self::Text(Some(value.into()));
    String, value => Self::Text(Some(value.into()));
    Option<&'q str>, value => Self::Text(value.map(Cow::from));
    Option<String>, value => Self::Text(value.map(Cow::from));
    &'q Option<String>, value => Self::Text(value.as_deref().map(Cow::from));
}

/// A row of the database it came from.
pub(in crate::sql) enum Row {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
}

/// What a column may hold.
pub(in crate::sql) trait Column: Sized {
    fn at(row: &Row, place: usize) -> Result<Self, sqlx::Error>;
    fn named(row: &Row, name: &str) -> Result<Self, sqlx::Error>;
}

macro_rules! column {
    ($($type:ty),+) => { $(
        impl Column for $type {
            fn at(row: &Row, place: usize) -> Result<Self, sqlx::Error> {
                match row {
                    #[cfg(feature = "sqlite")]
                    Row::Sqlite(row) => row.try_get(place),
                    #[cfg(feature = "postgres")]
                    Row::Postgres(row) => row.try_get(place),
                }
            }

            fn named(row: &Row, name: &str) -> Result<Self, sqlx::Error> {
                match row {
                    #[cfg(feature = "sqlite")]
                    Row::Sqlite(row) => row.try_get(name),
                    #[cfg(feature = "postgres")]
                    Row::Postgres(row) => row.try_get(name),
                }
            }
        }
    )+ };
}

column!(i64, f64, String, Option<i64>, Option<f64>, Option<String>);

/// What a query gives for each row: one column, a tuple of columns by place, or a [`row!`] by name.
pub(in crate::sql) trait FromRow: Sized {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error>;
}

impl<C: Column> FromRow for C {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
        C::at(row, 0)
    }
}

macro_rules! tuple_from_row {
    ($($type:ident $place:literal),+) => {
        impl<$($type: Column),+> FromRow for ($($type,)+) {
            fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
                Ok(($($type::at(row, $place)?,)+))
            }
        }
    };
}

tuple_from_row!(A 0, B 1);
tuple_from_row!(A 0, B 1, C 2);
tuple_from_row!(A 0, B 1, C 2, D 3);
tuple_from_row!(A 0, B 1, C 2, D 3, E 4);
tuple_from_row!(A 0, B 1, C 2, D 3, E 4, F 5);

/// A struct whose fields are columns of the same names.
macro_rules! row {
    ($(#[$on:meta])* $at:vis struct $name:ident { $($(#[$on_field:meta])* $field_at:vis $field:ident: $type:ty,)+ }) => {
        $(#[$on])*
        $at struct $name { $($(#[$on_field])* $field_at $field: $type,)+ }

        impl $crate::sql::db::FromRow for $name {
            fn from_row(row: &$crate::sql::db::Row) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: $crate::sql::db::Column::named(row, stringify!($field))?,)+ })
            }
        }
    };
}
pub(in crate::sql) use row;

/// Where a statement runs: within a transaction, or by itself on any reading connection.
pub(in crate::sql) enum On<'c> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut sqlx::SqliteConnection),
    #[cfg(feature = "sqlite")]
    SqlitePool(&'c sqlx::SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut sqlx::PgConnection),
    #[cfg(feature = "postgres")]
    PostgresPool(&'c sqlx::PgPool),
}

impl<'c> From<&'c mut Conn> for On<'c> {
    fn from(conn: &'c mut Conn) -> Self {
        conn.on()
    }
}

impl<'c> From<&'c Database> for On<'c> {
    fn from(database: &'c Database) -> Self {
        match database {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(files) => Self::SqlitePool(files.read()),
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => Self::PostgresPool(server.pool()),
        }
    }
}

/// A statement with `$1`, `$2` … for its parameters, prepared once per connection.
pub(in crate::sql) struct Query<'q> {
    sql: Cow<'static, str>,
    args: Vec<Arg<'q>>,
}

/// A statement that both databases read. Only our own text is ever part of it; values are bound.
pub(in crate::sql) fn query<'q>(sql: &'static str) -> Query<'q> {
    Query { sql: sql.into(), args: Vec::new() }
}

/// A statement whose text was put together for this call; values are bound in it.
pub(in crate::sql) fn built(sql: String, args: Vec<Arg<'_>>) -> Query<'_> {
    Query { sql: sql.into(), args }
}

/// Rows per multi-row statement: a fixed number, so that the statement is prepared once. Ten columns stay far below the
/// 32,766 parameters that SQLite takes.
const ROWS: usize = 250;

/// Inserts any number of rows: `insert` names the table and its columns, `conflict` is what follows the values.
pub(in crate::sql) async fn insert_all<'q, const COLUMNS: usize>(
    conn: &mut Conn,
    insert: &'static str,
    rows: Vec<[Arg<'q>; COLUMNS]>,
    conflict: &'static str,
) -> Result<(), Failure> {
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let args: Vec<Arg<'q>> = rows.by_ref().take(ROWS).flatten().collect();
        let mut sql = String::with_capacity(insert.len() + conflict.len() + args.len() * 6);
        sql.push_str(insert);
        sql.push_str(" VALUES ");
        for place in 0..args.len() {
            sql.push_str(match place {
                0 => "(",
                _ if place % COLUMNS == 0 => "), (",
                _ => ", ",
            });
            push_place(&mut sql, conn, place);
        }
        sql.push_str(") ");
        sql.push_str(conflict);
        Query { sql: sql.into(), args }.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Where a parameter stands in a long list. SQLite looks named ones up one by one, so there they have no name.
fn push_place(sql: &mut String, conn: &Conn, place: usize) {
    if conn.is_sqlite() {
        sql.push('?');
    } else {
        // Writing to a string does not fail.
        let _ = write!(sql, "${}", place + 1);
    }
}

/// Every row of `select` whose column is one of `keys`: `select` ends before the list, `order` follows it.
pub(in crate::sql) async fn select_in<T: FromRow>(
    conn: &mut Conn,
    select: &'static str,
    keys: &[String],
    order: &'static str,
) -> Result<Vec<T>, Failure> {
    let mut sql = format!("{select} IN (");
    for place in 0..keys.len() {
        sql.push_str(if place == 0 { "" } else { ", " });
        push_place(&mut sql, conn, place);
    }
    sql.push_str(") ");
    sql.push_str(order);
    Query { sql: sql.into(), args: keys.iter().map(Arg::from).collect() }.fetch_all(conn).await
}

macro_rules! run {
    ($query:ident, $on:expr, $method:ident, |$rows:ident, $wrap:ident| $then:expr) => {{
        if $query.args.iter().any(Arg::has_nul) {
            return Err(Failure::Nul);
        }
        let sql = match $query.sql {
            Cow::Borrowed(text) => text.into_sql_str(),
            Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
        };
        match $on {
            #[cfg(feature = "sqlite")]
            On::Sqlite(conn) => {
                let $wrap = Row::Sqlite;
                sqlite(sql, $query.args).$method(conn).await.and_then(|$rows| $then).map_err(Failure::sqlite)
            }
            #[cfg(feature = "sqlite")]
            On::SqlitePool(pool) => {
                let $wrap = Row::Sqlite;
                let mut conn = pool.acquire().await.map_err(Failure::sqlite)?;
                sqlite(sql, $query.args).$method(&mut *conn).await.and_then(|$rows| $then).map_err(Failure::sqlite)
            }
            #[cfg(feature = "postgres")]
            On::Postgres(conn) => {
                let $wrap = Row::Postgres;
                postgres(sql, $query.args).$method(conn).await.and_then(|$rows| $then).map_err(Failure::postgres)
            }
            #[cfg(feature = "postgres")]
            On::PostgresPool(pool) => {
                let $wrap = Row::Postgres;
                let mut conn = pool.acquire().await.map_err(Failure::postgres)?;
                postgres(sql, $query.args).$method(&mut *conn).await.and_then(|$rows| $then).map_err(Failure::postgres)
            }
        }
    }};
}

macro_rules! bind_all {
    ($sql:ident, $args:ident) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match arg {
                Arg::Int(value) => query.bind(value),
                Arg::Float(value) => query.bind(value),
                Arg::Text(Some(Cow::Borrowed(text))) => query.bind(text),
                Arg::Text(Some(Cow::Owned(text))) => query.bind(text),
                Arg::Text(None) => query.bind(None::<&str>),
            };
        }
        query
    }};
}

#[cfg(feature = "sqlite")]
fn sqlite<'q>(
    sql: sqlx::SqlStr,
    args: Vec<Arg<'_>>,
) -> sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    bind_all!(sql, args)
}

#[cfg(feature = "postgres")]
fn postgres<'q>(
    sql: sqlx::SqlStr,
    args: Vec<Arg<'_>>,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    bind_all!(sql, args)
}

impl<'q> Query<'q> {
    /// Gives the next parameter.
    pub(in crate::sql) fn bind(mut self, value: impl Into<Arg<'q>>) -> Self {
        self.args.push(value.into());
        self
    }

    pub(in crate::sql) async fn fetch_all<'c, T: FromRow>(self, on: impl Into<On<'c>>) -> Result<Vec<T>, Failure> {
        run!(self, on.into(), fetch_all, |rows, wrap| rows.into_iter().map(|row| T::from_row(&wrap(row))).collect())
    }

    /// The first row; it is an error if there is none.
    pub(in crate::sql) async fn fetch_one<'c, T: FromRow>(self, on: impl Into<On<'c>>) -> Result<T, Failure> {
        run!(self, on.into(), fetch_one, |row, wrap| T::from_row(&wrap(row)))
    }

    pub(in crate::sql) async fn fetch_optional<'c, T: FromRow>(
        self,
        on: impl Into<On<'c>>,
    ) -> Result<Option<T>, Failure> {
        run!(self, on.into(), fetch_optional, |row, wrap| row.map(|row| T::from_row(&wrap(row))).transpose())
    }

    /// Gives the number of rows that it changed.
    pub(in crate::sql) async fn execute<'c>(self, on: impl Into<On<'c>>) -> Result<u64, Failure> {
        run!(self, on.into(), execute, |done, _wrap| Ok(done.rows_affected()))
    }
}
