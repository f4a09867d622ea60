//! A lease as bytes.

use qmtl_backfill::lease::{Lease, Status};
use qmtl_history_api::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// Everything of a lease but its status, as JSON. Fields that are added have a default.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Row {
    fence: u64,
    token: String,
    until: i64,
    granted_at: i64,
    changed_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default)]
    attempts: u32,
    ratio: f64,
    granted_ratio: f64,
    #[serde(default)]
    missing: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The number of a status in the file.
fn number(status: Status) -> u8 {
    match status {
        Status::Held => 1,
        Status::Released => 2,
        Status::Failed => 3,
        Status::Partial => 4,
        Status::Done => 5,
        Status::Dead => 6,
        other => unreachable!("{other} has no number"),
    }
}

/// The status of a number in the file.
pub(super) fn status(number_in_file: u8) -> Result<Status> {
    let status = Status::ALL.into_iter().find(|status| number(*status) == number_in_file);
    status.ok_or_else(|| damaged().with("status", number_in_file))
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "a row of the lease store is none of ours")
}

impl Row {
    pub(super) fn encode(lease: &Lease) -> Result<(u8, Vec<u8>)> {
        let lease = lease.clone();
        let row = Self {
            fence: lease.fence,
            token: lease.token,
            until: lease.until.as_micros(),
            granted_at: lease.granted_at.as_micros(),
            changed_at: lease.changed_at.as_micros(),
            worker: lease.worker,
            request_id: lease.request_id,
            attempts: lease.attempts,
            ratio: lease.ratio,
            granted_ratio: lease.granted_ratio,
            missing: lease.missing,
            reason: lease.reason,
        };
        let bytes =
            serde_json::to_vec(&row).map_err(|e| Error::unexpected("a lease is no JSON").caused_by(e))?;
        Ok((number(lease.status), bytes))
    }

    pub(super) fn decode(number: u8, bytes: &[u8]) -> Result<Lease> {
        let row: Self = serde_json::from_slice(bytes).map_err(|e| damaged().caused_by(e))?;
        let time = |micros| Timestamp::from_micros(micros).map_err(|e| damaged().caused_by(e));
        let mut lease = Lease::new(row.fence, row.token, status(number)?);
        lease.until = time(row.until)?;
        lease.granted_at = time(row.granted_at)?;
        lease.changed_at = time(row.changed_at)?;
        (lease.worker, lease.request_id, lease.reason) = (row.worker, row.request_id, row.reason);
        (lease.attempts, lease.missing) = (row.attempts, row.missing);
        (lease.ratio, lease.granted_ratio) = (row.ratio, row.granted_ratio);
        Ok(lease)
    }
}
