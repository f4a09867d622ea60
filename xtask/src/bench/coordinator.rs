//! A lease coordinator, beside etcd with the same work as transactions.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::measures::number;
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::postgres::Programs;
use crate::process::{answers, apt, cargo, output, root, target};

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
