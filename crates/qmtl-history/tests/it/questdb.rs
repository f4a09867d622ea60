//! The program on a QuestDB: the same answers as on a folder, by another `--store`.

use qmtl_history_testkit::told;
use serde_json::{Value, json};

use super::elsewhere::{SERIES, SOURCE, run, says_the_same_as_a_folder};
use super::grid::phases_stand_in_every_command;
use super::leases::workers::share_a_series;
use super::proofs::{doubtful, is_told_and_mended, prove};
use super::{SPAN, Scene};

/// An empty store on the server of `cargo xtask integration`.
fn server(name: &str) -> Option<String> {
    let dsn = told("QMTL_TEST_QUESTDB_DSN", "`cargo xtask integration` starts a QuestDB")?;
    Some(format!("{dsn}&prefix=program_{}_{name}_", std::process::id()))
}

#[test]
fn every_command_says_the_same_as_on_a_folder() {
    let Some(server) = server("same") else { return };
    says_the_same_as_a_folder(&server, &Scene::new());
    let listed = run(&server, &["ls", "--json"]).object();
    assert_eq!((&listed["series"][0]["rows"], &listed["series"][0]["files"]), (&json!(5_720), &Value::Null));
    assert!(!listed.to_string().contains("quest@"), "a password was printed: {listed}");
}

#[test]
fn workers_share_a_server() {
    let Some(server) = server("workers") else { return };
    share_a_series(&Scene::new(), &server);
}

#[test]
fn a_server_has_series_on_grids_with_a_phase() {
    let Some(server) = server("grid") else { return };
    phases_stand_in_every_command(&server, &Scene::new());
}

#[test]
fn bars_from_before_1970_are_refused_by_name() {
    let Some(server) = server("early") else { return };
    for command in ["plan", "backfill"] {
        let words = [&[command], &SERIES[..], &["--source", SOURCE, "--start", "1962"]].concat();
        let run = run(&server, &words);
        run.fails_with(2, "the store holds no bars of that time: start the range later");
        assert!(run.stderr.contains("store: questdb, earliest: 1970-01-01T00:00:00Z"), "{run:?}");
    }
}

#[test]
fn what_only_files_have_is_said() {
    let Some(server) = server("files") else { return };
    let filled = run(&server, &[&["backfill"], &SERIES[..], &["--source", SOURCE], &SPAN[..]].concat());
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let files = run(&server, &[&["files"], &SERIES[..]].concat());
    assert_ne!(files.code, Some(0));
    assert!(files.stderr.contains("a store on a server has no files"), "{files:?}");
}

#[test]
fn proofs_are_forgotten_as_on_a_folder() {
    let Some(server) = server("forget") else { return };
    let words = |command: &'static str, more: &[&'static str]| [&[command], &SERIES[..], more].concat();
    let said = |words: &[&str]| {
        let run = run(&server, &[words, &["--json"]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.object()
    };
    let fill = [&words("backfill", &["--source", SOURCE])[..], &SPAN[..]].concat();
    assert_eq!(said(&fill)["rows_written"], 5_720);
    let told = said(&words("forget-empty", &["--dry-run"]));
    assert_eq!(
        (&told["rows"], &told["empty_bars"], &told["partitions"], &told["dry_run"]),
        (&json!(0), &json!(40), &Value::Null, &json!(true))
    );
    run(&server, &words("forget-empty", &["--from", "binance"]))
        .fails_with(1, "this source has no stored proofs; use --from with one that has");
    assert_eq!(said(&fill)["fetch_requests"], 0, "nothing was forgotten yet");
    assert_eq!(said(&words("forget-empty", &["--from", "file:ADABTC-5m.csv"]))["empty_bars"], 40);
    assert_eq!(said(&words("forget-empty", &[]))["empty_bars"], 0);
    assert_eq!(said(&words("coverage", &[]))["known_empty"], json!([]));
    let again = said(&fill);
    assert_eq!((&again["rows_written"], again["fetch_requests"].as_u64() > Some(0)), (&json!(0), true));
    assert_eq!(said(&words("forget-empty", &["--dry-run"]))["empty_bars"], 40, "the proofs are back");

    run(&server, &["forget-empty"]).fails_with(2, "no series is named");
    run(&server, &["forget-empty", "--node", "nobody", "--interval", "5m"])
        .fails_with(1, "the store has no such series");
    run(&server, &words("prune", &["--before", "20180115"])).fails_with(2, "no way to prune bars");
    run("questdb://admin:quest@127.0.0.1:1/qdb", &words("forget-empty", &[])).fails_with(4, "127.0.0.1:1");
}

#[test]
fn a_proof_that_counts_nowhere_is_told_with_a_command_that_mends_it() {
    let Some(server) = server("doubt") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = qmtl_io_questdb::QuestDbConfig::from_dsn(&server).unwrap();
        prove(&qmtl_io_questdb::QuestDbBackend::connect(config).await.unwrap(), doubtful()).await;
    });
    is_told_and_mended(|words| run(&server, words), &server);
}

/// Signals are those of Unix.
#[cfg(unix)]
mod interrupted {
    use std::io::{self, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::Stdio;
    use std::sync::mpsc::{self, Receiver};
    use std::thread;
    use std::time::Duration;

    use super::{SOURCE, SPAN, server};
    use crate::{interrupt, program};

    /// Stands before the server at `far` until a client says `word`: from then on it is silent on that
    /// connection, which it hands over.
    fn falling_silent(far: String, word: &'static str) -> (SocketAddr, Receiver<[TcpStream; 2]>) {
        let near = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = near.local_addr().unwrap();
        let (fallen, silent) = mpsc::channel();
        thread::spawn(move || {
            for client in near.incoming() {
                let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&far).unwrap());
                let (mut answers, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || io::copy(&mut answers, &mut to));
                let fallen = fallen.clone();
                thread::spawn(move || {
                    let mut said = [0; 8192];
                    while let Ok(length @ 1..) = client.read(&mut said) {
                        if said[..length].windows(word.len()).any(|at| at == word.as_bytes()) {
                            let _ = fallen.send([client, server]);
                            return;
                        }
                        server.write_all(&said[..length]).unwrap();
                    }
                });
            }
        });
        (at, silent)
    }

    #[test]
    fn an_interruption_is_heard_while_the_server_is_asked_what_it_has() {
        let Some(dsn) = server("silent") else { return };
        let (_, far) = dsn.split_once('@').unwrap();
        let far = far.split('/').next().unwrap();
        for extra in [&["--json"][..], &["--dry-run"]] {
            let (near, silent) = falling_silent(far.to_owned(), "unheard");
            let store = dsn.replacen(far, &near.to_string(), 1);
            let series = ["--node", "unheard", "--interval", "5m", "--source", SOURCE];
            let words = [&["backfill", "--store", &store], &series[..], &SPAN[..], extra].concat();
            let child = program().args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let _connection =
                silent.recv_timeout(Duration::from_secs(60)).expect("the series is asked about");
            let run = interrupt(child);
            assert_eq!(run.code, Some(130), "{run:?}");
            assert!(run.stderr.contains("interrupted"), "{run:?}");
        }
    }
}
