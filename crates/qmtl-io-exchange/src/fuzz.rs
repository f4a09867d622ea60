//! Answers that no exchange sent: whatever an answer says, it is a page, a clock or a failure.

use qmtl_history_api::{Interval, SeriesKey, TimeRange, frame};

use crate::{Answer, BinanceApi, CandleApi, CandleRequest, CoinbaseApi};

fn check(api: &dyn CandleApi, answer: &Answer) {
    let key = SeriesKey::new("x", Interval::MINUTE).expect("a series");
    let asked = CandleRequest::new(&key, "X", "1m", TimeRange::ALL, 1_000);
    if let Ok(page) = api.rows(&asked, answer) {
        assert_eq!(page.schema(), api.schema());
        frame::timestamps(&page).expect("a page has times");
    }
    // Its error has been made, which is all that can be asked of it.
    let _ = api.time_in(answer);
}

#[test]
fn pages() {
    bolero::check!(name = "pages").with_iterations(0).for_each(|bytes: &[u8]| {
        for status in [200, 400] {
            let answer = Answer::new(status, bytes);
            check(&BinanceApi, &answer);
            check(&CoinbaseApi, &answer);
        }
    });
}
