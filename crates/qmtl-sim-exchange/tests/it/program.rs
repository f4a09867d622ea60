//! The program of the same name.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn program(arguments: &[&str]) -> Command {
    let candles = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/ADABTC-5m.csv");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qmtl-sim-exchange"));
    command.arg("--candles").arg(candles).args(["--symbol", "ADABTC", "--interval", "5m"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends the program when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Running {
    /// The program with its clock at the close of the first bar, and its address once it serves.
    fn start(arguments: &[&str]) -> (Self, String) {
        let mut running = Self(program(&[&["--now", "1515560400000"], arguments].concat()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (running, line.trim().strip_prefix("http://").unwrap().to_owned())
    }
}

/// The first bar, as it is answered with head and body.
fn ask(addr: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .write_all(b"GET /api/v3/klines?symbol=ADABTC&interval=5m&startTime=0&limit=1 HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_prints_its_address_and_serves_with_faults() {
    let (_running, addr) = Running::start(&["--fault", "403@2"]);
    assert!(ask(&addr).contains("[[1515560100000,\"0.0000533\""));
    assert!(ask(&addr).starts_with("HTTP/1.0 403 "));
    assert!(ask(&addr).starts_with("HTTP/1.0 200 "));
}

#[test]
fn its_bars_may_be_late_or_preliminary_and_its_clock_wrong() {
    let (_running, addr) = Running::start(&["--publish-delay", "3600000", "--clock-error", "-3600000"]);
    let late = ask(&addr);
    assert!(late.contains("date: Wed, 10 Jan 2018 04:0") && late.ends_with("\r\n\r\n[]"), "{late}");
    let (_running, addr) = Running::start(&["--first-version", "3600000"]);
    let first = ask(&addr);
    let all_at_the_open = [r#","0.0000533""#; 4].concat();
    assert!(first.contains(&format!("[[1515560100000{all_at_the_open},")), "{first}");
    assert!(first.contains("date: Wed, 10 Jan 2018 05:0"), "{first}");
}

#[test]
fn bad_input_ends_it_with_2_and_a_reason() {
    let output = program(&["--fault", "sleepy"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("fault 'sleepy' is unknown"));
    let output = program(&["--interval", "7m"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
