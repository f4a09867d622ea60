//! The tables, and how they come to be.

use deadpool_postgres::Client;
use qmtl_history_api::{Error, ErrorKind, Result};

use super::failed;

/// The version of the tables that this program knows.
const VERSION: i32 = 1;

/// An advisory lock that servers which start together take one after another: "qmtl" as a number.
const LOCK: i64 = 0x716d_746c;

/// Each step leads from one version to the next. Keys are bytes, so that they compare as bytes in every locale, and hold
/// what text cannot. Rows are rewritten in place as long as no indexed column changes: the index is of few rows.
const STEPS: [&str; VERSION as usize] = ["
    create sequence qmtl_lease_fence;
    create table qmtl_leases (
        key bytea primary key,
        fence bigint not null,
        token text not null,
        status text not null,
        until_us bigint not null,
        granted_us bigint not null,
        changed_us bigint not null,
        worker text,
        request_id text,
        attempts integer not null,
        ratio double precision not null,
        granted_ratio double precision not null,
        missing bigint not null,
        reason text
    ) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
    create index qmtl_leases_open on qmtl_leases (status, key) where status <> 'done';
"];

/// Makes the tables, or brings them up to date.
pub(super) async fn migrate(client: &mut Client) -> Result<()> {
    let change = client.transaction().await.map_err(failed)?;
    change.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?;
    change
        .batch_execute(
            "create table if not exists qmtl_lease_version (version integer not null, only_row boolean primary key \
             default true check (only_row))",
        )
        .await
        .map_err(failed)?;
    let row = change.query_opt("select version from qmtl_lease_version", &[]).await.map_err(failed)?;
    let found: i32 = row.map_or(0, |row| row.get(0));
    if found > VERSION {
        let message = "the tables of leases were made by a newer version of this program: use that one";
        return Err(Error::new(ErrorKind::Corrupt, message).with("version", found).with("known", VERSION));
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        change.batch_execute(step).await.map_err(failed)?;
    }
    if found < VERSION {
        let sql = "insert into qmtl_lease_version (version) values ($1) on conflict (only_row) do update set version = $1";
        change.execute(sql, &[&VERSION]).await.map_err(failed)?;
        tracing::info!(from = found, to = VERSION, "the tables of leases were brought up to date");
    }
    change.commit().await.map_err(failed)
}
