//! What QuestDB and its clients say, in our words. Its SQLSTATE is always 00000, so the message decides.

use qmtl_history_api::{Error, ErrorKind};

use crate::naming::quoted;

/// The table of an error, where it concerns one.
#[derive(Clone, Copy)]
pub(crate) struct On<'a>(pub(crate) &'a str);

impl On<'_> {
    fn name(self, error: Error) -> Error {
        if self.0.is_empty() { error } else { error.with("table", self.0) }
    }
}

/// The kind of what the server said, with a remedy where there is one.
pub(crate) fn classify(message: &str) -> (ErrorKind, Option<&'static str>) {
    const FULL: &str =
        "free space on the server's disk, then run ALTER TABLE … RESUME WAL if the table is suspended";
    const FILES: &str = "let the server have more open files (ulimit -n), then run ALTER TABLE … RESUME WAL \
                         if the table is suspended";
    const UNMADE: &str =
        "see the server's log: most often it has run out of open files (ulimit -n) or of disk space";
    const RULES: &[(&str, ErrorKind, Option<&str>)] = &[
        ("does not exist", ErrorKind::NotFound, None),
        ("unknown function", ErrorKind::Unsupported, None),
        ("suspended", ErrorKind::Storage, Some("see suspended")),
        ("errno: 24,", ErrorKind::Storage, Some(FILES)),
        ("[24] could not", ErrorKind::Storage, Some(FILES)),
        ("errno: 28,", ErrorKind::Storage, Some(FULL)),
        ("[28] could not", ErrorKind::Storage, Some(FULL)),
        ("No space left", ErrorKind::Storage, Some(FULL)),
        // Of what it lacked to make one, QuestDB says nothing here.
        ("Could not create table", ErrorKind::Storage, Some(UNMADE)),
        // What follows says how it was to be opened.
        ("could not open", ErrorKind::Storage, None),
        ("could not allocate", ErrorKind::Storage, Some(FULL)),
        ("could not write", ErrorKind::Storage, Some(FULL)),
        ("read-only", ErrorKind::Storage, Some("the server takes no writes; check its configuration")),
        (
            "invalid username/password",
            ErrorKind::InvalidInput,
            Some("check user and password in the address"),
        ),
        ("Unauthorized", ErrorKind::InvalidInput, Some("check user and password in the address")),
        ("permission denied", ErrorKind::InvalidInput, Some("grant the user access to the table")),
        ("Access denied", ErrorKind::InvalidInput, Some("grant the user access to the table")),
        ("timeout", ErrorKind::Unavailable, None),
        ("busy", ErrorKind::Unavailable, None),
        ("could not lock", ErrorKind::Unavailable, None),
        ("cancelled by user", ErrorKind::Cancelled, None),
        ("connection", ErrorKind::Unavailable, None),
        ("cast error", ErrorKind::Schema, None),
        ("Invalid column", ErrorKind::Schema, None),
        ("column type mismatch", ErrorKind::Schema, None),
    ];
    RULES
        .iter()
        .find(|(text, ..)| message.contains(text))
        .map_or((ErrorKind::Unexpected, None), |(_, kind, remedy)| (*kind, *remedy))
}

/// An error of a statement over the PostgreSQL wire.
pub(crate) fn statement(error: tokio_postgres::Error, doing: &'static str, on: On<'_>) -> Error {
    let Some(server) = error.as_db_error() else {
        return on
            .name(Error::unavailable("the connection to QuestDB failed").with("doing", doing))
            .caused_by(error);
    };
    let (kind, remedy) = classify(server.message());
    if remedy == Some("see suspended") {
        return suspended(on.0, server.message());
    }
    let mut ours = on.name(Error::new(kind, "QuestDB refused a statement").with("doing", doing));
    if let Some(remedy) = remedy {
        ours = ours.with("remedy", remedy);
    }
    ours.with("answer", server.message())
}

/// A table that takes rows and applies none, with what brings it back.
pub(crate) fn suspended(table: &str, reason: &str) -> Error {
    Error::new(
        ErrorKind::Storage,
        "QuestDB has suspended the table: rows are accepted and stay invisible until it is resumed",
    )
    .with("table", table)
    .with("reason", reason)
    .with("remedy", format_args!("mend the cause, then run ALTER TABLE {} RESUME WAL", quoted(table)))
}

/// No connection within the time that is allowed for it.
pub(crate) fn no_connection(address: &str, cause: deadpool_postgres::PoolError) -> Error {
    use deadpool_postgres::PoolError;
    match cause {
        PoolError::Backend(error) if error.as_db_error().is_some() => {
            statement(error, "log in", On("")).with("server", address)
        }
        PoolError::Timeout(_) => Error::unavailable(
            "QuestDB gave no connection in time: it is down, or all of its connections (64 by default) are taken",
        )
        .with("server", address),
        // The pool's own error says the same as what it wraps.
        PoolError::Backend(cause) => {
            Error::unavailable("QuestDB cannot be reached").with("server", address).caused_by(cause)
        }
        cause => Error::unavailable("QuestDB cannot be reached").with("server", address).caused_by(cause),
    }
}

/// An error of the line protocol.
pub(crate) fn ingress(error: &questdb::Error, address: &str, on: On<'_>) -> Error {
    use questdb::ErrorCode;
    let (answered, remedy) = classify(error.msg());
    let kind = match error.code() {
        // The version of the protocol is asked for at the first connection.
        ErrorCode::CouldNotResolveAddr
        | ErrorCode::SocketError
        | ErrorCode::ConnectTimeout
        | ErrorCode::ProtocolVersionError => ErrorKind::Unavailable,
        ErrorCode::AuthError => ErrorKind::InvalidInput,
        ErrorCode::ServerFlushError | ErrorCode::ServerRejection => match answered {
            // A request that the line protocol does not understand never succeeds.
            ErrorKind::Unexpected if error.msg().contains("\"code\":\"invalid\"") => ErrorKind::Schema,
            ErrorKind::Unexpected => ErrorKind::Unavailable,
            kind => kind,
        },
        _ => ErrorKind::Unexpected,
    };
    let mut ours = on.name(Error::new(kind, "QuestDB did not take rows over HTTP")).with("address", address);
    if let Some(remedy) = remedy.filter(|_| kind == answered) {
        ours = ours.with("remedy", remedy);
    }
    ours.with("answer", error.msg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_kinds_that_a_caller_can_act_on() {
        for (message, kind) in [
            ("table does not exist [table=x]", ErrorKind::NotFound),
            ("unknown function name: wait_wal_table(STRING)", ErrorKind::Unsupported),
            ("table is suspended", ErrorKind::Storage),
            ("[28] could not allocate space: No space left on device", ErrorKind::Storage),
            ("timeout, query aborted", ErrorKind::Unavailable),
            ("table busy [reason=insert]", ErrorKind::Unavailable),
            ("could not lock 'x'", ErrorKind::Unavailable),
            ("invalid username/password", ErrorKind::InvalidInput),
            ("Invalid column: rule", ErrorKind::Schema),
            ("unexpected token", ErrorKind::Unexpected),
        ] {
            assert_eq!(classify(message).0, kind, "{message}");
        }
    }

    #[test]
    fn what_cannot_be_opened_is_no_word_about_the_server() {
        let open = |errno| format!("[{errno}] could not open read-only [file=/data/db/bars~4/close.d]");
        assert_eq!(classify(&open(2)), (ErrorKind::Storage, None));
        let (kind, remedy) = classify(&open(24));
        assert!(kind == ErrorKind::Storage && remedy.unwrap().contains("ulimit -n"), "{remedy:?}");
    }

    #[test]
    fn a_table_that_cannot_be_made_comes_with_where_to_look() {
        let (kind, remedy) =
            classify("Could not create table, could not open read-write [file=/data/_wal_index.d]");
        assert!(kind == ErrorKind::Storage && remedy.unwrap().contains("log"), "{remedy:?}");
    }

    #[test]
    fn a_suspended_table_comes_with_its_remedy() {
        let error = suspended("bars", "disk full");
        assert!(error.to_string().contains("ALTER TABLE \"bars\" RESUME WAL"), "{error}");
        assert!(!error.is_retryable());
    }
}
