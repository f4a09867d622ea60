//! What etcd does of a coordinator's work: claims and completions as transactions, each client waiting for its answers.
//! Arguments: the address, the number of clients. Prints pairs a second and the times of one call.

use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, KvClient, Txn, TxnOp};

const WARM_UP: Duration = Duration::from_millis(500);
const LENGTH: Duration = Duration::from_secs(4);

/// As many bytes as a lease of ours.
fn value() -> Vec<u8> {
    vec![b'x'; 250]
}

/// Creates the key, or fails; the number of the change is the fence.
async fn claim(kv: &mut KvClient, key: &str) -> i64 {
    let create = Txn::new()
        .when([Compare::version(key, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, value(), None)])
        .or_else([TxnOp::get(key, None)]);
    let done = kv.txn(create).await.expect("an answer");
    assert!(done.succeeded(), "each key is new");
    done.header().expect("a header").revision()
}

/// Changes the key if nobody has since.
async fn complete(kv: &mut KvClient, key: &str, fence: i64) {
    let change = Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, fence)])
        .and_then([TxnOp::put(key, value(), None)]);
    assert!(kv.txn(change).await.expect("an answer").succeeded(), "nobody else has it");
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("an address");
    let clients: u64 = arguments.next().and_then(|count| count.parse().ok()).expect("a number of clients");
    let client = Client::connect([&address], None).await.expect("a connection");
    let begun = Instant::now();
    let run = std::process::id();
    let working: Vec<_> = (0..clients)
        .map(|number| {
            let mut kv = client.kv_client();
            tokio::spawn(async move {
                let (mut pairs, mut times) = (0_u64, Vec::new());
                for window in 0_u64.. {
                    if begun.elapsed() > WARM_UP + LENGTH {
                        break;
                    }
                    let key = format!("ohlcv:bench:{run:x}:{number}:60:{window}:{}::", window + 1);
                    let started = Instant::now();
                    let fence = claim(&mut kv, &key).await;
                    let claimed = Instant::now();
                    complete(&mut kv, &key, fence).await;
                    if started.duration_since(begun) > WARM_UP {
                        pairs += 1;
                        times.extend([claimed - started, claimed.elapsed()]);
                    }
                }
                (pairs, times)
            })
        })
        .collect();
    let (mut pairs, mut times) = (0, Vec::new());
    for done in working {
        let (own, more) = done.await.expect("no panic");
        pairs += own;
        times.extend(more);
    }
    times.sort_unstable();
    let at = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1_000.0;
    let rate = pairs as f64 / LENGTH.as_secs_f64();
    println!("coordinator: etcd {clients} clients {rate:.0} pairs/s, p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}
