//! Prints for each column of TA-Lib's values, whose table is the first argument, the largest relative difference from the
//! reference nodes over all candles. `cargo xtask bench indicators` runs it.

use qmtl_history_api::{Error, Result};
use strategies::candles;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Cargo adds arguments of its own.
    let Some(path) = std::env::args().nth(1).filter(|path| !path.starts_with("--")) else { return Ok(()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::unavailable("read the table").with("file", &path).caused_by(e))?;
    let theirs = candles::table(&text)?;
    let (bars, ours) = candles::compared().await?;
    assert!(theirs.iter().map(|(ts, _)| *ts).eq(bars.iter().copied()), "the table is of other bars");
    println!("bars {}", bars.len());
    for (at, (name, ours)) in ours.iter().enumerate() {
        let theirs: Vec<f64> = theirs.iter().map(|(_, values)| values[at]).collect();
        println!("{name} {:e}", candles::difference(ours, &theirs));
    }
    Ok(())
}
