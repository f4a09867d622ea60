//! The S3 server that `cargo xtask test` has started, and ones of their own for tests of access.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use qmtl_history_api::Maintenance;
use qmtl_io_parquet::object_store::aws::AmazonS3Builder;
use qmtl_io_parquet::object_store::{self, ObjectStore, PutMode};

use crate::child::{Task, key};
use crate::crash::{eight_processes, open, read};

static STORES: AtomicU32 = AtomicU32::new(0);

/// A variable that `cargo xtask test` sets.
pub(crate) fn told(variable: &str) -> Option<String> {
    qmtl_history_testkit::told(variable, "`cargo xtask test -p qmtl-io-parquet` starts an S3 server")
}

/// The URL of an empty store of its own on the shared server.
pub(crate) fn fresh() -> Option<String> {
    let bucket = told("QMTL_TEST_S3_URL")?;
    Some(format!("{bucket}/t{}/{}", std::process::id(), STORES.fetch_add(1, Ordering::Relaxed)))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_puts_of_a_name_one_is_taken() {
    let Some(bucket) = told("QMTL_TEST_S3_URL") else { return };
    let store = AmazonS3Builder::from_env().with_url(&bucket).with_allow_http(true).build().unwrap();
    let store = Arc::new(store);
    for number in 0..20 {
        let puts = (0..16_u8).map(|writer| {
            let store = Arc::clone(&store);
            let key = object_store::path::Path::from(format!("t{}/puts/{number}", std::process::id()));
            tokio::spawn(async move {
                let put = store.put_opts(&key, vec![writer; 100].into(), PutMode::Create.into()).await;
                match put {
                    Ok(_) => true,
                    Err(object_store::Error::AlreadyExists { .. }) => false,
                    Err(e) => panic!("{e}"),
                }
            })
        });
        let taken = futures::future::join_all(puts).await;
        assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1, "name {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_lose_and_double_nothing_in_a_bucket() {
    let Some(root) = fresh() else { return };
    eight_processes(Path::new(&root), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stumbles_delays_writers_and_nothing_else() {
    let Some(root) = fresh() else { return };
    let (puts, in_a_row) = (AtomicU32::new(0), Mutex::new(HashMap::<String, u32>::new()));
    let proxy = Proxy::start(move |request, number| {
        let fault = match number % 11 {
            3 => Fault::Busy,
            7 => Fault::CutBefore,
            _ if request.starts_with("PUT") && puts.fetch_add(1, Ordering::SeqCst) % 3 == 1 => {
                Fault::CutAfter
            }
            _ => Fault::None,
        };
        // A client repeats a request 6 times: two of them in step could meet that many faults in a row.
        let mut in_a_row = in_a_row.lock().unwrap();
        let faults = in_a_row.entry(request.lines().next().unwrap_or_default().to_owned()).or_default();
        *faults = if fault == Fault::None { 0 } else { *faults + 1 };
        if *faults > 4 { Fault::None } else { fault }
    });
    let env = [("AWS_ENDPOINT_URL", proxy.endpoint.as_str())];
    let mut tasks = [(0, 400), (200, 600)]
        .map(|(first, end)| Task::start_with(&format!("steps:{first}:{end}"), &root, &env));
    let written: Vec<u32> = tasks
        .iter_mut()
        .map(|task| {
            let line = task.line().expect("the child finishes");
            assert!(task.process.wait().unwrap().success());
            line.parse().unwrap_or_else(|_| panic!("{line}"))
        })
        .collect();
    let store = open(Path::new(&root)).await;
    let numbers: Vec<u32> = read(&store).await.into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (0..600).collect::<Vec<_>>());
    assert_eq!(
        written.iter().sum::<u32>(),
        600,
        "each row is counted by the one that stored it: {written:?}"
    );
    assert!(store.verify(&key()).await.unwrap().is_empty());
    let [busy, after, before] = proxy.counts();
    assert!(busy > 3 && after > 3 && before > 3, "{busy} {after} {before}");
}

/// What a process that writes says when something is wrong with the bucket.
fn said(root: &str, env: &[(&str, &str)]) -> String {
    let mut task = Task::start_with("write:0:10", root, env);
    let line = task.line().expect("the child says how it went");
    assert!(task.process.wait().unwrap().success());
    line
}

#[test]
fn a_bucket_that_cannot_be_had_is_named_with_the_remedy_and_no_secret() {
    let (Some(root), Some(program)) = (fresh(), told("QMTL_TEST_MOTO_SERVER")) else { return };
    let secrets = [
        ("AWS_ACCESS_KEY_ID", "canary-key"),
        ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
        ("AWS_SESSION_TOKEN", "canary-token"),
    ];
    let strict = Strict::start(&program);
    let line = said(&root, &[&secrets[..], &[("AWS_ENDPOINT_URL", &strict.endpoint)]].concat());
    assert!(
        line.starts_with("Storage cannot list a folder of the store; access denied: check AWS_ACC"),
        "{line}"
    );
    assert!(line.contains(&format!("(path: {root}, endpoint: {})", strict.endpoint)), "{line}");
    assert!(line.contains("InvalidAccessKeyId: ") && !line.contains("canary"), "{line}");

    let line = said("s3://qmtl-test-absent/x", &secrets);
    assert!(line.starts_with("Storage cannot list a folder of the store; there is no such bucket"), "{line}");
    assert!(line.contains("path: s3://qmtl-test-absent/x") && !line.contains("canary"), "{line}");

    let line = said(&root, &[&secrets[..], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]].concat());
    assert!(line.starts_with("Unavailable cannot list a folder of the store; the server does not"), "{line}");
    assert!(line.contains(&format!("path: {root}")) && !line.contains("canary"), "{line}");

    let busy = Proxy::start(|_, _| Fault::Busy);
    let line = said(&root, &[&secrets[..], &[("AWS_ENDPOINT_URL", &busy.endpoint)]].concat());
    assert!(
        line.starts_with("Unavailable cannot list a folder of the store; the server is in trouble"),
        "{line}"
    );
    assert!(busy.counts()[0] > 3, "it was asked again");
}

/// A server of one test that checks credentials.
struct Strict {
    child: Child,
    endpoint: String,
}

impl Strict {
    fn start(program: &str) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("INITIAL_NO_AUTH_ACTION_COUNT", "0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let strict = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "moto does not come up");
            thread::sleep(Duration::from_millis(50));
        }
        strict
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a proxy does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Answered with 503.
    Busy,
    /// The connection ends without an answer, after the server has done it.
    CutAfter,
    /// The connection ends without an answer, and the server has heard nothing.
    CutBefore,
}

/// A proxy before the shared server, with one request a connection.
struct Proxy {
    endpoint: String,
    counts: Arc<[AtomicU32; 3]>,
}

impl Proxy {
    /// `fault` is given the head of each request and its number.
    fn start(fault: impl Fn(&str, u32) -> Fault + Send + Sync + 'static) -> Self {
        let server = std::env::var("AWS_ENDPOINT_URL").unwrap().replace("http://", "");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let counts: Arc<[AtomicU32; 3]> = Arc::default();
        let (fault, own, requests) = (Arc::new(fault), Arc::clone(&counts), Arc::new(AtomicU32::new(0)));
        // It ends with the test's process.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (server, fault, counts) = (server.clone(), Arc::clone(&fault), Arc::clone(&own));
                let requests = Arc::clone(&requests);
                thread::spawn(move || {
                    // Either side may go at any time, which is what the test is about.
                    let _ = carry(near, &server, |line| {
                        let fault = fault(line, requests.fetch_add(1, Ordering::SeqCst));
                        if fault != Fault::None {
                            counts[fault as usize - 1].fetch_add(1, Ordering::SeqCst);
                        }
                        fault
                    });
                });
            }
        });
        Self { endpoint, counts }
    }

    /// How many requests met each fault.
    fn counts(&self) -> [u32; 3] {
        [0, 1, 2].map(|index| self.counts[index].load(Ordering::SeqCst))
    }
}

fn carry(mut near: TcpStream, server: &str, fault: impl Fn(&str) -> Fault) -> std::io::Result<()> {
    let mut reader = BufReader::new(near.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let fault = fault(&head);
    if fault == Fault::Busy {
        let answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        near.write_all(answer)?;
    }
    if matches!(fault, Fault::Busy | Fault::CutBefore) {
        return Ok(());
    }
    let mut far = TcpStream::connect(server)?;
    far.write_all(head.as_bytes())?;
    far.write_all(b"Connection: close\r\n\r\n")?;
    far.write_all(&body)?;
    let mut answer = Vec::new();
    far.read_to_end(&mut answer)?;
    if fault == Fault::CutAfter { Ok(()) } else { near.write_all(&answer) }
}
