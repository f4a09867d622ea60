//! The fetchers' suite on the exchanges that are built in, and what shows that its checks can fail.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use qmtl_history_api::{Result, async_trait};
use qmtl_history_testkit::fetchers::faults::Fault;
use qmtl_history_testkit::fetchers::{CHECKS, FetcherSubject, Host};
use qmtl_history_testkit::{Check, run};
use qmtl_io_exchange::{BinanceFetcher, CoinbaseFetcher, ExchangeConfig, Transport, TransportAnswer};

pub(super) fn settings(config: ExchangeConfig, host: &Host) -> ExchangeConfig {
    let config = config.with_base_url(&host.base_url).with_clock(Arc::clone(&host.clock));
    config.with_weight_per_minute(1_000_000).with_requests_per_second(10_000.0).with_max_body_bytes(4 << 20)
}

fn binance_of(host: &Host) -> Result<BinanceFetcher> {
    BinanceFetcher::new(settings(ExchangeConfig::binance(), host))
}

mod binance {
    use super::*;

    async fn fresh() -> Option<FetcherSubject> {
        Some(FetcherSubject::new(binance_of))
    }

    qmtl_history_testkit::fetcher_conformance!(fresh);
}

mod coinbase {
    use super::*;

    async fn fresh() -> Option<FetcherSubject> {
        Some(FetcherSubject::new(|host| CoinbaseFetcher::new(settings(ExchangeConfig::coinbase(), host))))
    }

    qmtl_history_testkit::fetcher_conformance!(fresh);
}

/// Whether the check fails on what `subject` makes.
fn fails(check: &Check<FetcherSubject>, subject: impl Fn() -> FetcherSubject) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(check, async || Some(subject())))).is_err()
}

#[test]
fn every_fault_trips_a_check_of_each_guarantee_that_it_breaks() {
    for fault in Fault::ALL {
        for guarantee in fault.breaks() {
            let mut checks = CHECKS.iter().filter(|check| check.guarantee().as_deref() == Some(guarantee));
            let is_found = checks.any(|check| fails(check, || fault.wrap(FetcherSubject::new(binance_of))));
            assert!(is_found, "{fault:?} breaks {guarantee}, and no check sees it");
        }
    }
}

/// Carries requests as the network does, and says nothing of when to come again.
#[derive(Debug)]
struct Deaf(reqwest::Client);

#[async_trait]
impl Transport for Deaf {
    async fn get(&self, url: &str) -> io::Result<TransportAnswer> {
        let response = self.0.get(url).send().await.map_err(io::Error::other)?;
        let (status, mut headers) = (response.status(), response.headers().clone());
        headers.remove(reqwest::header::RETRY_AFTER);
        let mut answer =
            TransportAnswer::new(status.as_u16(), response.bytes().await.map_err(io::Error::other)?);
        answer.headers = headers;
        Ok(answer)
    }
}

#[test]
fn a_fetcher_that_does_not_hear_when_to_come_again_is_found() {
    let deaf = || {
        FetcherSubject::new(|host| {
            let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
            BinanceFetcher::new(settings(ExchangeConfig::binance(), host).with_transport(Deaf(client)))
        })
    };
    let failing: Vec<_> = CHECKS.iter().filter(|check| fails(check, deaf)).map(|check| check.name).collect();
    assert_eq!(failing, ["h_fetch_08_nobody_asks_sooner_than_told"]);
}

#[test]
fn every_check_can_fail() {
    let seen: BTreeSet<_> = Fault::ALL.iter().flat_map(|fault| fault.breaks()).copied().collect();
    let told = CHECKS.iter().filter_map(Check::guarantee).collect::<BTreeSet<_>>();
    let unseen: Vec<_> = told.iter().filter(|guarantee| !seen.contains(guarantee.as_str())).collect();
    // The test above is the fault of this one.
    assert_eq!(unseen, ["H-FETCH-08"]);
}
