//! A lease coordinator, beside etcd with the same work as transactions; workers that share a fill, beside one.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::measures::number;
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::postgres::Programs;
use crate::process::{answers, apt, cargo, output, root, target};
use crate::{questdb, s3};

const CLIENTS: [u32; 3] = [1, 8, 64];

/// Claims and completions a second on a file beside etcd, and on PostgreSQL; what a million known windows cost.
pub(super) fn coordinator(_: &Peers) -> Result<Vec<Row>> {
    let mut command = cargo(["bench", "--quiet", "--package", "qmtl-coordinator", "--bench", "coordinator"]);
    if let Some(programs) = Programs::for_tests()? {
        programs.told(&mut command);
    }
    let ours = output(&mut command)?;
    println!("{ours}");
    let pairs = |text: &str, store: &str, clients: u32| {
        number(text, &format!("coordinator: {store} {clients} clients "))
    };
    let mut rows = Vec::new();
    match Etcd::start() {
        Ok(etcd) => {
            for clients in CLIENTS {
                let theirs = etcd.measure(clients)?;
                println!("{theirs}");
                rows.push(Row {
                    name: format!("claim and complete, {clients} clients, a file"),
                    ours: Amount(pairs(&ours, "embedded", clients)?, "pairs/s"),
                    other: (pairs(&theirs, "etcd", clients)?, "etcd".to_owned()),
                    better: Better::More,
                    gate: Some(1.0),
                });
            }
        }
        Err(error) => println!("no etcd to compare with: {error:#}"),
    }
    rows.push(Row {
        name: "claim and complete, 64 clients, PostgreSQL".to_owned(),
        // A pair is a claim and a completion.
        ours: Amount(pairs(&ours, "postgres", 64)?, "pairs/s"),
        other: (3_000.0, "limit".to_owned()),
        better: Better::More,
        gate: Some(1.0),
    });
    let p99 = |line: &str| -> Result<f64> {
        let line =
            ours.lines().find(|own| own.contains(line)).with_context(|| format!("no line {line:?}"))?;
        number(line, &format!("{}p99 ", line.split_once("p99 ").map_or("", |(before, _)| before)))
    };
    rows.push(Row {
        name: "a claim among a million windows, 8 clients, p99".to_owned(),
        ours: Amount(p99("coordinator: million 8 clients")?, "ms"),
        other: (5.0, "limit".to_owned()),
        better: Better::Less,
        gate: Some(1.0),
    });
    for page in ["middle", "dead"] {
        rows.push(Row {
            name: format!("a page among a million windows, {page}, p99"),
            ours: Amount(p99(&format!("coordinator: page {page}"))?, "ms"),
            other: (p99("coordinator: page first")?, "the first page".to_owned()),
            better: Better::Less,
            gate: None,
        });
    }
    Ok(rows)
}

/// A million bars filled by eight workers, beside one, into each kind of store.
pub(super) fn workers(_: &Peers) -> Result<Vec<Row>> {
    let mut command =
        cargo(["bench", "--quiet", "--package", "qmtl-history", "--all-features", "--bench", "workers"]);
    let (bucket, questdb) = (s3::Server::for_tests()?, questdb::Server::for_bench()?);
    bucket.iter().for_each(|server| server.told(&mut command));
    questdb.told(&mut command);
    let told = output(&mut command)?;
    println!("{told}");
    let stores = [("folder", true), ("bucket", bucket.is_some()), ("questdb", true)];
    let rows = stores.into_iter().filter(|(_, is_there)| *is_there).map(|(store, _)| {
        let seconds = |workers: u32| number(&told, &format!("workers: {store} {workers} "));
        Ok(Row {
            name: format!("a million bars, eight workers, {store}"),
            ours: Amount(seconds(8)?, "s"),
            other: (seconds(1)?, "one worker".to_owned()),
            better: Better::Less,
            // A bucket and a server share the machine's cores with the workers.
            gate: (store == "folder").then_some(6.0),
        })
    });
    rows.collect()
}

/// An etcd in a folder of its own, and a client of it.
struct Etcd {
    child: Child,
    address: String,
}

impl Etcd {
    fn start() -> Result<Self> {
        if !answers("etcd", "--version") {
            apt("etcd-server", "etcd")?;
        }
        if !answers("protoc", "--version") {
            apt("protobuf-compiler", "protoc")?;
            apt("libprotobuf-dev", "the files of protoc")?;
        }
        let manifest = root().join("xtask/peers/etcd/Cargo.toml");
        let mut build = cargo(["build", "--release", "--quiet", "--manifest-path"]);
        output(build.arg(&manifest).arg("--target-dir").arg(target().join("etcd-peer")))?;
        let folder = target().join("etcd-data");
        let _ = std::fs::remove_dir_all(&folder);
        let (address, peers) = ("http://127.0.0.1:23790".to_owned(), "http://127.0.0.1:23800");
        let mut command = Command::new("etcd");
        command.args(["--name", "bench", "--log-level", "error", "--data-dir"]).arg(&folder);
        command.args(["--listen-client-urls", &address, "--advertise-client-urls", &address]);
        command.args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]);
        command.args(["--initial-cluster", &format!("bench={peers}")]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start etcd")?;
        let etcd = Self { child, address };
        let started = Instant::now();
        while etcd.measure(1).is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                bail!("etcd does not answer");
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(etcd)
    }

    /// A line of figures.
    fn measure(&self, clients: u32) -> Result<String> {
        let program = target().join("etcd-peer/release/etcd-peer");
        output(Command::new(program).args([&self.address, &clients.to_string()]))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
