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

#[test]
fn it_prints_its_address_and_serves_with_faults() {
    let mut running = Running(program(&["--now", "1515560400000", "--fault", "403@2"]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("http://").unwrap().to_owned();
    let ask = || {
        let mut stream = TcpStream::connect(&addr).unwrap();
        stream
            .write_all(b"GET /api/v3/klines?symbol=ADABTC&interval=5m&startTime=0&limit=1 HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask().contains("[[1515560100000,\"0.0000533\""));
    assert!(ask().starts_with("HTTP/1.0 403 "));
    assert!(ask().starts_with("HTTP/1.0 200 "));
}

#[test]
fn bad_input_ends_it_with_2_and_a_reason() {
    let output = program(&["--fault", "sleepy"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("fault 'sleepy' is unknown"));
    let output = program(&["--interval", "7m"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
