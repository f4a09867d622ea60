//! What servers that tests talk to have in common.

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Result;

/// A server for tests that could be started. `None`, with a line that says what is left out, where there
/// can be none; an error where backends are required.
pub(crate) fn for_tests<S>(what: &str, started: Result<S>) -> Result<Option<S>> {
    match started {
        Ok(server) => Ok(Some(server)),
        Err(error) if env::var("QMTL_REQUIRE_BACKENDS").is_ok_and(|value| value == "1") => {
            Err(error.context(format!("QMTL_REQUIRE_BACKENDS=1, but there is no {what} to test against")))
        }
        Err(error) => {
            println!("LEFT OUT: every test against a {what}, for there is none here: {error:#}");
            Ok(None)
        }
    }
}

/// The HTTP status of the answer to a request without a body, such as `GET /ping`.
pub(crate) fn http_status(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let headers = "Host: localhost\r\nContent-Length: 0\r\nConnection: close";
    write!(stream, "{request} HTTP/1.1\r\n{headers}\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(String::from_utf8_lossy(&head[9..]).into_owned())
}
