//! Group commit: calls that wait for SQLite's one writing connection share a transaction, and so the flush at its end.
//!
//! Calls stand in one line. Whose turn it is does its work and goes back to the end of the line; whoever comes to its turn
//! with its work done commits for all who have worked since the last commit. Alone, a call is its own group. With others,
//! those who were in the line when it worked have worked too by then.
//!
//! # Rules
//! - A call sees what the calls before it in its group wrote, so no call returns, whatever its result, before the commit of
//!   what it saw. If that fails, it fails.
//! - Each call but the first works behind a savepoint: its error or its end takes back its own work alone.
//! - No task of its own: the commit is a future that every waiting call drives, so that one that is dropped stops nobody.
//! - Nobody left who waits for it, a transaction is taken back at once and never stays open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, Shared, ready, select};
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Sqlite, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

type Commit = Shared<BoxFuture<'static, Result<(), Arc<sqlx::Error>>>>;
type Turn = OwnedMutexGuard<Option<Group>>;

/// The calls that share a transaction.
struct Group {
    tx: Transaction<'static, Sqlite>,
    outcome: Arc<Outcome>,
    /// What the last call wrote is to be taken back before anything else.
    undo: bool,
}

async fn take_back(tx: &mut SqliteConnection, undo: &mut bool) -> Result<(), sqlx::Error> {
    if *undo {
        sqlx::query("ROLLBACK TO w").execute(tx).await?;
        *undo = false;
    }
    Ok(())
}

struct Outcome {
    /// Calls whose work is done and who wait for the commit.
    waiting: AtomicUsize,
    commit: watch::Sender<Option<Commit>>,
}

/// A call that waits for its group's commit.
struct Waiting(Arc<Outcome>);

impl Waiting {
    fn new(outcome: &Arc<Outcome>) -> Self {
        outcome.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(outcome))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Those who want to write, in the order in which they came.
pub(super) struct Line {
    pool: SqlitePool,
    group: Arc<Mutex<Option<Group>>>,
    patience: Duration,
}

/// Takes back, at the end of its scope, a transaction that nobody waits for. Whoever holds the turn then looks after it.
struct Tidy<'l>(&'l Line);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        if let Ok(mut group) = self.0.group.try_lock() {
            take_if(&mut group, |group| group.outcome.waiting.load(Ordering::SeqCst) == 0);
        }
    }
}

fn take_if(group: &mut Option<Group>, unwanted: impl FnOnce(&Group) -> bool) {
    if group.as_ref().is_some_and(unwanted) {
        *group = None;
    }
}

impl Line {
    /// `pool` has one connection; a call waits at most `patience` for its turn.
    pub(super) fn new(pool: SqlitePool, patience: Duration) -> Arc<Self> {
        Arc::new(Self { pool, group: Arc::default(), patience })
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    async fn turn(&self) -> Turn {
        // Behind the lock's own future, so that a call which is dropped in the line gives its place up first.
        let _tidy = Tidy(self);
        Arc::clone(&self.group).lock_owned().await
    }

    /// Waits for its turn, and starts a group or joins the one that is open.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Member, sqlx::Error> {
        let turn = tokio::time::timeout(self.patience, self.turn()).await;
        let mut turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?;
        if let Some(group) = &mut *turn
            && let Err(error) = take_back(&mut group.tx, &mut group.undo).await
        {
            fail(&mut turn, &error);
        }
        let first = turn.is_none();
        if first {
            let tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let outcome = Outcome { waiting: AtomicUsize::new(0), commit: watch::Sender::new(None) };
            *turn = Some(Group { tx, outcome: Arc::new(outcome), undo: false });
        }
        let mut member = Member { line: Arc::clone(self), turn: Some(turn), first, saved: false };
        if !first {
            // Should this call be dropped here, a savepoint that nothing follows does no harm.
            sqlx::query("SAVEPOINT w").execute(member.conn()).await?;
            member.saved = true;
        }
        Ok(member)
    }

    /// Waits for the commit of `waiting`'s group; commits it if its turn comes first.
    async fn settle(&self, waiting: impl FnOnce() -> Waiting) -> Result<(), Arc<sqlx::Error>> {
        // Behind `waiting`, so that a call which is dropped no longer counts.
        let _tidy = Tidy(self);
        let waiting = waiting();
        let mut told = waiting.0.commit.subscribe();
        let commit = loop {
            if let Some(commit) = told.borrow_and_update().clone() {
                break commit;
            }
            let turn = match select(Box::pin(told.changed()), Box::pin(self.turn())).await {
                Either::Left(_) => continue,
                Either::Right((turn, _)) => turn,
            };
            if turn.as_ref().is_some_and(|group| Arc::ptr_eq(&group.outcome, &waiting.0)) {
                waiting.0.commit.send_replace(commit(turn));
            }
        };
        commit.await
    }
}

/// Commits the open group; the turn goes on once that is over. The outcome owns the commit and not the other way round,
/// so that both are gone with the last call that waits.
fn commit(mut turn: Turn) -> Option<Commit> {
    let Group { mut tx, mut undo, .. } = turn.take()?;
    let commit = async move {
        let done = match take_back(&mut tx, &mut undo).await {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        drop(turn);
        done.map_err(Arc::new)
    };
    Some(commit.boxed().shared())
}

/// Ends the open group: the database took back what all of it wrote.
fn fail(turn: &mut Turn, error: &sqlx::Error) {
    if let Some(group) = turn.take() {
        let told = sqlx::Error::Io(std::io::Error::other(format!("taken back with the writes beside it: {error}")));
        group.outcome.commit.send_replace(Some(ready(Err(Arc::new(told))).boxed().shared()));
    }
}

/// A call at its turn. Dropped, it takes its own work back.
pub(in crate::sql) struct Member {
    line: Arc<Line>,
    turn: Option<Turn>,
    first: bool,
    /// There is a savepoint in front of this call's work.
    saved: bool,
}

impl Member {
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        let turn = self.turn.as_mut().expect("the turn is given up only where the member ends");
        &mut turn.as_mut().expect("a member works in an open group, which nobody else can end").tx
    }

    /// Keeps this call's work or takes it back; returns once all that it saw is permanent.
    pub(super) async fn end(mut self, keep: bool) -> Result<(), Arc<sqlx::Error>> {
        if self.first && !keep {
            return Ok(());
        }
        if self.saved {
            // Should the call be dropped here, its work stays and is committed with the rest.
            self.saved = !keep;
            let last = if keep { "RELEASE w" } else { "ROLLBACK TO w" };
            let done = sqlx::query(last).execute(self.conn()).await;
            self.saved = false;
            if let Err(error) = done
                && let Some(turn) = &mut self.turn
            {
                fail(turn, &error);
                return Err(Arc::new(error));
            }
        }
        let line = Arc::clone(&self.line);
        let turn = self.turn.take();
        let wait = move || {
            let group = turn.as_ref().and_then(|turn| turn.as_ref());
            Waiting::new(&group.expect("the group of a member is open while it has the turn").outcome)
        };
        line.settle(wait).await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        let saved = self.saved;
        if let Some(group) = &mut *turn {
            group.undo |= saved;
        }
        let first = self.first;
        take_if(&mut turn, |group| first || group.outcome.waiting.load(Ordering::SeqCst) == 0);
    }
}
