//! Paging against a model that looks at every candle.

use proptest::prelude::*;
use qmtl_sim_exchange::{Candle, Interval, Market, SimClock, SimConfig, SimExchange};

use crate::client::{MINUTE, START, get};

#[derive(Debug, Clone)]
struct Query {
    start: Option<i64>,
    end: Option<i64>,
    limit: Option<usize>,
    now: i64,
}

/// Opening times, holes of every length among them; the last query asks near the present.
fn scenarios() -> impl Strategy<Value = (Vec<i64>, Vec<Query>)> {
    let gaps =
        prop::collection::vec(prop_oneof![8 => Just(1_i64), 1 => 2..5_i64, 1 => 5..2_000_i64], 1..1_500);
    let time = START - 100 * MINUTE..START + 3_000 * MINUTE;
    let query = (
        prop::option::weighted(0.8, time.clone()),
        prop::option::weighted(0.6, time.clone()),
        prop::option::weighted(0.6, 1..1_300_usize),
        time,
    );
    let query = query.prop_map(|(start, end, limit, now)| Query { start, end, limit, now });
    (gaps, prop::collection::vec(query, 1..8)).prop_map(|(gaps, queries)| {
        let times = gaps.iter().scan(START, |at, gap| {
            let time = *at;
            *at += gap * MINUTE;
            Some(time)
        });
        (times.collect(), queries)
    })
}

/// What the exchange's documentation says, read literally.
fn model(times: &[i64], query: &Query) -> Vec<i64> {
    let limit = query.limit.unwrap_or(500).min(1_000);
    let mut kept: Vec<i64> = Vec::new();
    for &time in times {
        let wanted = query.start.is_none_or(|start| time >= start) && query.end.is_none_or(|end| time <= end);
        if wanted && time <= query.now {
            kept.push(time);
        }
    }
    if query.start.is_some() {
        kept.truncate(limit);
    } else {
        while kept.len() > limit {
            kept.remove(0);
        }
    }
    kept
}

async fn ask(sim: &SimExchange, query: &Query) -> Vec<i64> {
    sim.set_now(query.now);
    let mut path = "/api/v3/klines?symbol=ADABTC&interval=1m".to_owned();
    let parameters = [
        ("startTime", query.start),
        ("endTime", query.end),
        ("limit", query.limit.map(|limit| i64::try_from(limit).unwrap())),
    ];
    for (name, value) in parameters {
        path.extend(value.map(|value| format!("&{name}={value}")));
    }
    get(sim, &path).await.times()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_page_is_what_a_naive_filter_gives((times, queries) in scenarios()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let candles = times.iter().map(|time| Candle::new(*time, [1.0; 4], 1.0)).collect();
            let market = Market::new("ADABTC", "1m", candles).unwrap();
            let sim = SimExchange::start(SimConfig::new([market]).with_clock(SimClock::Frozen(0))).await.unwrap();
            for query in &queries {
                assert_eq!(ask(&sim, query).await, model(&times, query), "{query:?}");
            }
        });
    }

    #[test]
    fn following_the_last_opening_time_reads_every_candle_once((times, _) in scenarios(), limit in 1..1_000_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let interval = Interval::parse("1m").unwrap();
            let candles = times.iter().map(|time| Candle::new(*time, [1.0; 4], 1.0)).collect();
            let market = Market::new("ADABTC", "1m", candles).unwrap();
            let config = SimConfig::new([market]).with_weight_limit(u32::MAX);
            let sim = SimExchange::start(config).await.unwrap();
            let now = sim.now();
            let limit = limit.max(times.len() / 50);
            let (mut read, mut next) = (Vec::new(), 0);
            loop {
                let page = ask(&sim, &Query { start: Some(next), end: None, limit: Some(limit), now }).await;
                let Some(last) = page.last() else { break };
                next = last + interval.ms();
                read.extend(page);
            }
            assert_eq!(read, times);
        });
    }
}
