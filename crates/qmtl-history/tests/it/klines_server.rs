//! A server with the klines API that knows nothing of ours: threads, text, and a set of minutes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a request asked for, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) limit: usize,
}

/// Serves the minutes (counted from the epoch) at which it has a bar; closes with the test.
#[derive(Debug)]
pub(crate) struct KlinesServer {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl KlinesServer {
    pub(crate) fn start(minutes: BTreeSet<i64>) -> Self {
        Self::late(minutes, |_| 0)
    }

    /// Serves bars that open so many milliseconds after their minute.
    pub(crate) fn late(minutes: BTreeSet<i64>, late: fn(i64) -> i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (minutes, asked) = (Arc::new(minutes), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (minutes, log) = (Arc::clone(&minutes), Arc::clone(&log));
                std::thread::spawn(move || serve(&stream, (&minutes, late), &log));
            }
        });
        Self { url, asked }
    }

    /// The requests for klines since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// The minutes that have a bar, and how late it opens.
type Bars<'a> = (&'a BTreeSet<i64>, fn(i64) -> i64);

/// Answers requests until the client goes.
fn serve(stream: &TcpStream, bars: Bars<'_>, log: &Mutex<Vec<Asked>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        while lines.next().is_some_and(|header| !header.is_empty()) {}
        let target = request.split(' ').nth(1).unwrap().to_owned();
        let (status, body) = match target.split_once('?') {
            Some(("/api/v3/klines", query)) => ("200 OK", klines(query, bars, log)),
            _ => ("404 Not Found", String::from("nothing here")),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut out = stream;
        if out.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn klines(query: &str, (minutes, late): Bars<'_>, log: &Mutex<Vec<Asked>>) -> String {
    let number = |name: &str| -> Option<i64> {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    let asked = Asked {
        start: number("startTime").unwrap(),
        end: number("endTime").unwrap(),
        limit: usize::try_from(number("limit").unwrap_or(500)).unwrap(),
    };
    log.lock().unwrap().push(asked);
    let mut body = String::from("[");
    let opens = |minute: &i64| minute * 60_000 + late(*minute);
    let is_asked = |minute: &&i64| (asked.start..=asked.end).contains(&opens(minute));
    let near = minutes.range(asked.start.div_euclid(60_000)..=asked.end.div_euclid(60_000));
    for minute in near.filter(is_asked).take(asked.limit.min(1_000)) {
        let comma = if body.len() > 1 { "," } else { "" };
        let (opens, price) = (opens(minute), price(*minute));
        write!(
            body,
            "{comma}[{opens},\"{price}\",\"{price}\",\"{price}\",\"{price}\",\"1.5\",{},\"3\",7,\"1\",\"2\",\"0\"]",
            opens + 59_999
        )
        .unwrap();
    }
    body + "]"
}

/// The price of a minute, as text with four decimals.
pub(crate) fn price(minute: i64) -> String {
    format!("{}.{:04}", 100 + minute % 7, minute % 10_000)
}
