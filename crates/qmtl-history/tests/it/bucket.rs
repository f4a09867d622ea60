//! The program on a store in a bucket.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use qmtl_history_testkit::told;

use super::elsewhere::{SERIES, run, says_the_same_as_a_folder};
use super::leases::workers::share_a_series;
use super::{Run, SPAN, Scene, program};

/// An empty store on the server of `cargo xtask test`.
fn server(name: &str) -> Option<String> {
    let bucket = told("QMTL_TEST_S3_URL", "`cargo xtask test -p qmtl-history` starts an S3 server")?;
    Some(format!("{bucket}/program-{}-{name}", std::process::id()))
}

#[test]
fn every_command_says_the_same_as_on_a_folder() {
    let Some(server) = server("same") else { return };
    run(&server, &["ls"]).fails_with(4, "there is no store under this URL; check bucket and prefix");
    let scene = Scene::new();
    says_the_same_as_a_folder(&server, &scene);
    let series = |store: &str| run(store, &["ls", "--json"]).object()["series"].clone();
    let (mut there, mut here) = (series(&server), series(&scene.store()));
    // Each file says in its footer which attempt of a commit it is.
    assert!(there[0]["bytes"].take().as_u64() > here[0]["bytes"].take().as_u64());
    assert_eq!(there, here);
    let files = run(&server, &[&["files"], &SERIES[..]].concat());
    let urls: Vec<&str> = files.stdout.lines().collect();
    assert!(!urls.is_empty() && urls.iter().all(|url| url.starts_with(&server) && url.ends_with(".parquet")));
    let pruned = run(&server, &[&["prune"], &SERIES[..], &["--before", SPAN[3], "--json"]].concat()).object();
    assert_eq!(pruned["rows"], 5_720);
    let collected = run(&server, &[&["gc"], &SERIES[..], &["--grace", "1h", "--json"]].concat()).object();
    assert_eq!(collected["files"], 0, "what was replaced a moment ago stays");
}

#[test]
fn workers_share_a_bucket() {
    let Some(server) = server("workers") else { return };
    share_a_series(&Scene::new(), &server);
}

#[test]
fn a_server_that_is_not_there_is_named_without_secrets() {
    let mut command = program();
    command.args(["ls", "--store", "s3://bucket/history"]);
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "canary").env("AWS_SECRET_ACCESS_KEY", "canary");
    let run = Run::of(command.output().unwrap());
    run.fails_with(4, "the server does not answer: check the network, AWS_ENDPOINT_URL and AWS_REGION");
    run.fails_with(4, "(path: s3://bucket/history, endpoint: http://127.0.0.1:1)");
    assert!(!run.stderr.contains("canary"), "{run:?}");
}

#[test]
fn settings_that_no_request_can_be_made_with_are_named_and_nothing_panics() {
    let ls = |name: &str, value: &str| {
        let mut command = program();
        command.args(["ls", "--store", "s3://bucket/history"]);
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret").env(name, value);
        Run::of(command.output().unwrap())
    };
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000/canary"),
        ("AWS_ENDPOINT_URL", "http://"),
        ("AWS_ENDPOINT_URL", "http://user:canary@127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "canary\n"),
        ("AWS_SESSION_TOKEN", "can\nary"),
        ("AWS_REGION", "canary\n"),
        ("AWS_METADATA_ENDPOINT", "canary"),
    ] {
        let run = ls(name, value);
        run.fails_with(2, &format!("a setting of the bucket cannot be used (variable: {name}, why: "));
        assert!(!run.stderr.contains("canary") && run.stderr.lines().count() == 1, "{run:?}");
    }
}

/// A server that gives every request the same answer: its head and then `part`, so many times at most.
fn serves(head: &'static str, part: String, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, part) = (client.unwrap(), part.clone());
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut asked = BufReader::new(client.try_clone()?).lines();
                while asked.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
                write!(client, "{head}\r\nConnection: close\r\n\r\n")?;
                (0..times).try_for_each(|_| client.write_all(part.as_bytes()))
            });
        }
    });
    address
}

/// What the client takes in whole has a bound, whatever it is about: a list, credentials, an error.
#[test]
fn an_answer_without_an_end_and_a_list_without_one_are_refused() {
    let ls = |variables: &[(&str, &str)]| {
        let mut command = program();
        command.args(["ls", "--store", "s3://bucket/history"]).env("AWS_REGION", "us-east-1");
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(variable);
        }
        Run::of(command.envs(variables.iter().copied()).output().unwrap())
    };
    let keys = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    for (head, said) in [
        ("HTTP/1.1 200 OK", "the server sends more than any answer of this kind has"),
        ("HTTP/1.1 400 Bad Request", "the server sends more than any answer of this kind has"),
    ] {
        let endless = serves(head, "x".repeat(1 << 16), usize::MAX);
        ls(&[&keys[..], &[("AWS_ENDPOINT_URL", &endless)]].concat()).fails_with(4, said);
        ls(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_METADATA_ENDPOINT", &endless)])
            .fails_with(4, said);
    }
    let object = "<Contents><Key>history/x</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>\
                  <ETag>&quot;1&quot;</ETag><Size>1</Size></Contents>";
    for contents in ["", object] {
        let page = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated>{contents}\
             <NextContinuationToken>a+/=</NextContinuationToken></ListBucketResult>"
        );
        let again = serves("HTTP/1.1 200 OK", page, 1);
        let run = ls(&[&keys[..], &[("AWS_ENDPOINT_URL", &again)]].concat());
        run.fails_with(4, "the server lists the same objects again and again");
        run.fails_with(4, "the server answers, but not as S3 does: check AWS_ENDPOINT_URL");
    }
}

/// The client of a bucket follows a server elsewhere; its own log lines say where.
#[test]
fn log_lines_of_http_clients_show_no_user() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let is_first = lines.next().is_some_and(|request| !request.contains("/next"));
            while lines.next().is_some_and(|header| !header.is_empty()) {}
            let place = format!("location: http://canary:canary@{host}/next?key=canary\r\n");
            let (status, place) = if is_first { ("307 Elsewhere", &*place) } else { ("404 None", "") };
            let answer =
                format!("HTTP/1.1 {status}\r\n{place}content-length: 0\r\nconnection: close\r\n\r\n");
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    for format in ["human", "event", "json"] {
        let mut command = program();
        command.args(["-vvv", "ls", "--store", "s3://bucket/history", "--log-format", format]);
        command.env("AWS_ENDPOINT_URL", format!("http://{host}")).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_ALLOW_HTTP", "true");
        let run = Run::of(command.output().unwrap());
        assert!(run.stderr.contains("***@127.0.0.1"), "{format}: {run:?}");
        assert!(!run.stderr.contains("canary"), "{format}: {run:?}");
    }
}
