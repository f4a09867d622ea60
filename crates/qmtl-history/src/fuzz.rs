//! What users write: lists of series, addresses and command lines. Any text is understood or refused, in a message that
//! no terminal is moved by and that holds no secret.

use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use qmtl_history_api::Error;

use crate::cli::Cli;
use crate::outcome::{Failure, chain};
use crate::{series, source, store, text};

/// A secret, which no input can be taken for.
const CANARY: &str = "ZqXjZqXj";

/// Whether the secret can come of a text of which signs are left out when it is shown.
fn holds_canary(text: &str) -> bool {
    let mut signs = text.chars();
    CANARY.chars().all(|sign| signs.any(|other| other == sign))
}

/// Checks a message as it is printed.
fn check_told(told: &str) {
    let is_odd = |c: char| c.is_control() && c != '\n';
    assert!(!told.contains(is_odd), "{told:?}");
    assert!(told.lines().skip(1).all(|line| line.starts_with("    ")), "{told:?}");
    assert!(!told.contains(CANARY), "{told:?}");
}

fn check_error(error: &Error) {
    check_told(&chain(error));
}

#[test]
fn lists() {
    bolero::check!(name = "lists").with_iterations(0).for_each(|bytes: &[u8]| {
        let list = String::from_utf8_lossy(bytes);
        if holds_canary(&list) {
            return;
        }
        let read = series::parse(&list, Path::new("/nowhere"));
        if let Err(error) = read.and_then(|wanted| {
            let series = wanted.iter().map(|wanted| (&wanted.key, wanted.sources.as_slice()));
            series::told_apart(series, |_, file| file.may_be_several())
        }) {
            check_error(&error);
        }
    });
}

/// A store's address, as far as it can be followed without a connection.
fn check_store(address: &str) {
    match store::place(Some(address)) {
        Ok(store::Place::QuestDb(dsn)) => check_dsn(&dsn),
        Ok(store::Place::Files(_)) => {}
        Err(Failure::Error { error, hint, .. }) => {
            check_error(&error);
            check_told(&text::for_terminal(&text::without_secrets(&hint.unwrap_or_default())));
        }
        Err(other) => panic!("an address is refused by an error: {other:?}"),
    }
}

#[cfg(feature = "questdb")]
fn check_dsn(dsn: &str) {
    match qmtl_io_questdb::QuestDbConfig::from_dsn(dsn) {
        Ok(config) => assert!(!format!("{config} {config:?}").contains(CANARY), "{config:?}"),
        Err(error) => check_error(&error),
    }
}

#[cfg(not(feature = "questdb"))]
fn check_dsn(_: &str) {}

/// A source's address, up to its first request.
fn check_source(address: &str) {
    let place = match source::place(address, Path::new("/nowhere")) {
        Ok(place) => place,
        Err(error) => return check_error(&error),
    };
    #[cfg(any(feature = "binance", feature = "coinbase"))]
    if let source::Place::Exchange(exchange) = place {
        let asking = source::Asking {
            rate: None,
            retries: None,
            retry_for: None,
            archive_folder: None,
            clock: Arc::new(qmtl_observe::TokioClock::new()),
        };
        if let Err(error) = source::exchange::open(&exchange, &[], &asking) {
            check_error(&error);
        }
    }
}

#[test]
fn addresses() {
    bolero::check!(name = "addresses").with_iterations(0).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if !holds_canary(&text) {
            check_store(&text);
            check_source(&text);
            for secret in [format!("{CANARY}{text}"), format!("{text}{CANARY}")] {
                let dsn = format!("questdb://admin:{secret}@127.0.0.1:8812/qdb?http=9000");
                check_store(&dsn);
                check_told(&text::for_terminal(&store::typed(&dsn)));
                check_source(&format!("binance+http://me:{secret}@127.0.0.1:1"));
                check_source(&format!("coinbase+https://127.0.0.1:1/?key={secret}"));
            }
        }
    });
}

/// A word a line; `$` stands for an address with a password.
#[test]
fn command_lines() {
    let dsn = format!("questdb://admin:{CANARY}@127.0.0.1:8812/qdb");
    bolero::check!(name = "command_lines").with_iterations(0).for_each(|bytes: &[u8]| {
        let line = String::from_utf8_lossy(bytes);
        if !holds_canary(&line) {
            let words = line.split('\n').map(|word| word.replacen('$', &dsn, 1));
            let words: Vec<_> = std::iter::once("qmtl-history".to_owned()).chain(words).collect();
            if let Err(error) = Cli::try_parse_from(&words) {
                let told = text::without_secrets(&error.render().to_string());
                assert!(!told.contains(CANARY), "{told}");
            }
        }
    });
}
