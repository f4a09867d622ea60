//! A QuestDB through our crate, beside what its peers take for the same work on the same server, in turn.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{cargo, root};
use crate::questdb::Server;

/// Everything that we promise of the speed of a QuestDB.
pub(super) fn questdb(peers: &Peers) -> Result<Vec<Row>> {
    let server = Server::for_bench()?;
    let mut bench = Bench { ours: ours(&server)?, others: Others::start(peers, &server)? };
    let mut rows = bench.writes()?;
    rows.extend(bench.reads()?);
    rows.extend(bench.coverage()?);
    rows.extend(bench.fill()?);
    rows.extend(record(&server)?);
    rows.push(stream(&server)?);
    Ok(rows)
}

/// A process of our own bench.
fn ours(server: &Server) -> Result<Talk> {
    let mut command = cargo(["bench", "--quiet", "--package", "qmtl-io-questdb", "--bench", "questdb"]);
    server.told(command.args(["--", "talk"]));
    Talk::start(&mut command)
}

/// A process that does pieces of work when it is told to: a line in, a number out.
struct Talk {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
}

impl Talk {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let from = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        Ok(Self { to: child.stdin.take(), child, from })
    }

    fn line(&mut self, after: &str) -> Result<String> {
        self.from
            .next()
            .with_context(|| format!("a measuring process ended at {after:?}"))?
            .context("its output")
    }

    fn ask(&mut self, work: &str) -> Result<f64> {
        writeln!(self.to.as_mut().context("stdin is piped")?, "{work}")?;
        let line = self.line(work)?;
        line.parse().with_context(|| format!("{work} gave {line:?}"))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It ends at the end of its input.
        self.to.take();
        let _ = self.child.wait();
    }
}

/// The peers, and the Python original where a checkout of it is named.
struct Others {
    talk: Option<Talk>,
    versions: Vec<(String, String)>,
}

/// What the original took on two cores, where it cannot run: milliseconds. As it stands today it
/// fills no hole: it reads the hole first, which fails.
const ORIGINAL: [(&str, f64); 4] =
    [("write", 100_000.0), ("read", 3_500.0), ("coverage", 1_000.0), ("fill", 20_000.0)];

impl Others {
    fn start(peers: &Peers, server: &Server) -> Result<Self> {
        let Ok(python) = &peers.python else { return Ok(Self { talk: None, versions: Vec::new() }) };
        peers.add(&["questdb", "connectorx", "psycopg[binary]"])?;
        peers.add_original()?;
        let [pg, http] = server.ports();
        let mut command = Command::new(python);
        command.arg(root().join("xtask/peers/on_questdb.py")).args([pg, http].map(|port| port.to_string()));
        let mut talk = Talk::start(&mut command)?;
        let versions = talk.line("the versions")?;
        let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let versions = versions.split(' ').filter_map(pair).collect();
        Ok(Self { talk: Some(talk), versions })
    }

    /// What a peer's number is called.
    fn name(&self, peer: &str) -> String {
        let version = self.versions.iter().find(|(name, _)| name == peer);
        let shown = if peer == "questdb" { "questdb's client" } else { peer };
        version.map_or_else(|| shown.to_owned(), |(_, version)| format!("{shown} {version}"))
    }

    fn has_original(&self) -> bool {
        self.versions.iter().any(|(name, value)| name == "original" && value == "yes")
    }

    /// A peer's milliseconds; `None` where there are no peers.
    fn ask(&mut self, work: &str) -> Result<Option<f64>> {
        self.talk.as_mut().map(|talk| talk.ask(work)).transpose()
    }

    /// The original's milliseconds, the median of three, and whose number that is.
    fn original(&mut self, work: &str, runs: usize) -> Result<(f64, String)> {
        if self.has_original()
            && work != "fill"
            && let Some(talk) = &mut self.talk
        {
            let times =
                (0..runs).map(|_| talk.ask(&format!("original {work}"))).collect::<Result<Vec<_>>>()?;
            return Ok((median(times), "the Python original".to_owned()));
        }
        let known = ORIGINAL.iter().find(|(name, _)| *name == work);
        let (_, ms) = known.with_context(|| format!("no number of the original for {work}"))?;
        Ok((*ms, "the original's, told".to_owned()))
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A row of milliseconds, of which fewer are better.
fn less(name: &str, ours: f64, (other, whose): (f64, String), gate: f64) -> Row {
    Row {
        name: name.to_owned(),
        ours: Amount(ours, "ms"),
        other: (other, whose),
        better: Better::Less,
        gate: Some(gate),
    }
}

struct Bench {
    ours: Talk,
    others: Others,
}

impl Bench {
    /// The same work of ours and of peers in turn: our median, and theirs.
    fn in_turn(&mut self, ours: &str, peers: &[&str], runs: usize) -> Result<(f64, Vec<(f64, String)>)> {
        let (mut times, mut theirs) = (Vec::new(), vec![Vec::new(); peers.len()]);
        for run in 0..runs {
            times.push(self.ours.ask(&ours.replace("{}", &run.to_string()))?);
            for (peer, times) in peers.iter().zip(&mut theirs) {
                times.extend(self.others.ask(&peer.replace("{}", &run.to_string()))?);
            }
        }
        let named = peers.iter().zip(theirs).filter(|(_, times)| !times.is_empty());
        let named = named.map(|(peer, times)| {
            let name = peer.split(' ').next().unwrap_or_default();
            (median(times), self.others.name(name))
        });
        Ok((median(times), named.collect()))
    }

    /// A million bars until a query sees them.
    fn writes(&mut self) -> Result<Vec<Row>> {
        // The server compiles what is hot first.
        self.ours.ask("store million")?;
        self.others.ask("questdb store bench_warm")?;
        let (ours, theirs) = self.in_turn("store write{}", &["questdb store bench_peer{}"], 5)?;
        self.ours.ask("store_gaps gaps")?;
        if self.others.has_original() {
            self.others.ask("original prepare")?;
        }
        let name = "1M bars written until visible";
        let mut rows: Vec<_> = theirs.into_iter().map(|other| less(name, ours, other, 1.0)).collect();
        rows.push(less(name, ours, self.others.original("write", 1)?, 100.0));
        Ok(rows)
    }

    fn reads(&mut self) -> Result<Vec<Row>> {
        let (name, mut rows) = ("1M bars into Arrow", Vec::new());
        let (ours, theirs) = self.in_turn("read", &["pyarrow read"], 15)?;
        rows.extend(theirs.into_iter().map(|other| less(name, ours, other, 1.0 / 1.1)));
        let (ours, theirs) = self.in_turn("read", &["connectorx read", "psycopg read"], 5)?;
        rows.extend(theirs.into_iter().map(|other| less(name, ours, other, 1.0)));
        rows.push(less(name, ours, self.others.original("read", 3)?, 20.0));
        let (ours, theirs) = self.in_turn("day", &["pyarrow day", "connectorx day", "psycopg day"], 25)?;
        rows.extend(theirs.into_iter().map(|other| less("one day of 1M bars", ours, other, 1.0)));
        Ok(rows)
    }

    fn coverage(&mut self) -> Result<Vec<Row>> {
        let (first, _) = self.in_turn("coverage", &[], 11)?;
        let (again, _) = self.in_turn("coverage_again", &[], 11)?;
        let original = self.others.original("coverage", 3)?;
        self.ours.ask("store_ten ten")?;
        let (month, _) = self.in_turn("month", &[], 25)?;
        Ok(vec![
            less("coverage of 1M bars, 1,000 gaps, new handle", first, original.clone(), 25.0),
            less("coverage of 1M bars, 1,000 gaps, again", again, original, 25.0),
            less("coverage of a month out of 10M bars", month, (15.0, "limit".to_owned()), 1.0),
        ])
    }

    fn fill(&mut self) -> Result<Vec<Row>> {
        let (ours, _) = self.in_turn("fill fill{}", &[], 3)?;
        Ok(vec![less("1,000 gaps of 100 bars filled", ours, self.others.original("fill", 1)?, 30.0)])
    }
}

/// A million events through a recorder, in a process of their own.
fn record(server: &Server) -> Result<Vec<Row>> {
    let mut talk = ours(server)?;
    let (rate, peak) = (talk.ask("record recorded")?, talk.ask("peak_mb")?);
    let limit = |limit: f64| (limit, "limit".to_owned());
    Ok(vec![
        Row {
            name: "events recorded, of 1M".to_owned(),
            ours: Amount(rate, "events/s"),
            other: limit(50_000.0),
            better: Better::More,
            gate: Some(1.0),
        },
        Row {
            name: "peak memory of that".to_owned(),
            ours: Amount(peak, "MB"),
            other: limit(100.0),
            better: Better::Less,
            gate: Some(1.0),
        },
    ])
}

/// Peak memory while ten million rows stream: at the end, and after five of them.
fn stream(server: &Server) -> Result<Row> {
    let mut talk = ours(server)?;
    let (early, late) = (talk.ask("stream")?, talk.ask("peak_mb")?);
    Ok(Row {
        name: "peak memory, 10M rows streamed".to_owned(),
        ours: Amount(late, "MB"),
        other: (early, "after 5M of them".to_owned()),
        better: Better::Less,
        gate: Some(0.8),
    })
}
