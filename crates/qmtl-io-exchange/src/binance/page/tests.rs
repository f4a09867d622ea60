//! Pages as the API writes them, and everything that it might write instead.

use qmtl_history_api::Interval;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type};
use qmtl_history_api::arrow_schema::DataType;

use super::*;

const FIRST: i64 = 1_704_067_200_000;

fn ts(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000).unwrap()
}

fn asked() -> TimeRange {
    TimeRange::new(ts(FIRST), ts(FIRST + 600_000)).unwrap()
}

fn row(opens: i64) -> String {
    let closes = opens + 59_999;
    format!(r#"[{opens},"0.00005330","5.4","5.2","0.1","431401.97870000",{closes},"23.5",17,"1","2.5","0"]"#)
}

fn read_body(asked: TimeRange, status: u16, body: &str) -> Result<Page, Failure> {
    let key = SeriesKey::new("ADABTC", Interval::MINUTE).unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    read(&key, asked, &Answer { status, date: None, body: body.into() })
}

fn page_of(rows: &[String]) -> Result<Page, Failure> {
    read_body(asked(), 200, &format!("[{}]", rows.join(",")))
}

#[test]
fn a_page_has_the_columns_of_an_archive_and_exact_values() {
    let page = page_of(&[row(FIRST), row(FIRST + 120_000)]).unwrap();
    let names: Vec<_> = page.batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        names.join(","),
        "ts,open,high,low,close,volume,quote_volume,trades,taker_base_volume,taker_quote_volume"
    );
    assert_eq!(page.batch.schema().field_with_name("trades").unwrap().data_type(), &DataType::Int64);
    assert_eq!(page.batch.column(1).as_primitive::<Float64Type>().value(0), 5.33e-5);
    assert_eq!(page.batch.column(5).as_primitive::<Float64Type>().value(1), 431_401.978_7);
    assert_eq!(page.batch.column(7).as_primitive::<Int64Type>().value(0), 17);
    assert_eq!((page.batch.num_rows(), page.span), (2, Some((ts(FIRST), ts(FIRST + 120_000)))));
}

#[test]
fn a_page_without_rows_is_an_answer() {
    let page = page_of(&[]).unwrap();
    assert_eq!((page.batch.num_rows(), page.span, page.is_whole), (0, None, true));
}

#[test]
fn rows_out_of_order_twice_or_beside_the_request_are_left_to_the_reader() {
    let page = page_of(&[row(FIRST + 60_000), row(FIRST), row(FIRST), row(FIRST - 60_000)]).unwrap();
    assert_eq!((page.batch.num_rows(), page.span), (4, Some((ts(FIRST), ts(FIRST + 60_000)))));
}

#[test]
fn what_cannot_be_an_answer_names_series_column_and_row() {
    let huge = row(FIRST).replace("5.4", &format!("1{}", "0".repeat(400)));
    let cases = [
        (row(FIRST / 1_000), "not one in milliseconds", "open_time"),
        (row(FIRST * 1_000), "not one in milliseconds", "open_time"),
        (row(i64::MAX - 60_000), "not one in milliseconds", "open_time"),
        (huge, "not a number that a double can hold", "high"),
        (row(FIRST).replace("5.2", "NaN"), "not a number that a double can hold", "low"),
        (row(FIRST).replace("5.2", ""), "not a number that a double can hold", "low"),
    ];
    for (bad, message, column) in cases {
        let failure = page_of(&[row(FIRST), bad]).unwrap_err();
        let text = failure.error.to_string();
        assert_eq!((failure.error.kind(), failure.reason), (ErrorKind::Schema, Some(Reason::BadAnswer)));
        assert!(text.contains(message) && text.contains("series: ADABTC@1m"), "{text}");
        assert!(text.contains(&format!("column: {column}")) && text.contains("row: 1"), "{text}");
    }
}

#[test]
fn a_bar_of_another_length_is_refused_and_not_asked_for_again() {
    let five_minutes = row(FIRST + 60_000).replace("1704067319999", "1704067559999");
    let failure = page_of(&[row(FIRST), five_minutes]).unwrap_err();
    let text = failure.error.to_string();
    assert_eq!((failure.error.kind(), failure.reason), (ErrorKind::Schema, None));
    assert!(text.contains("a bar of another interval") && text.contains("length_ms: 300000"), "{text}");
}

#[test]
fn a_row_off_the_grid_is_left_to_the_reader_and_part_of_a_page_proves_nothing() {
    let page = page_of(&[row(FIRST), row(FIRST + 67_000)]).unwrap();
    assert_eq!(page.span, Some((ts(FIRST), ts(FIRST + 67_000))));
    let part = read_body(asked(), 206, &format!("[{}]", row(FIRST))).unwrap();
    assert_eq!((part.batch.num_rows(), part.is_whole), (1, false));
    let nothing = read_body(asked(), 206, "[]").unwrap();
    assert_eq!((nothing.batch.num_rows(), nothing.is_whole), (0, false));
}

#[test]
fn a_bar_in_seconds_is_known_by_its_length_even_where_it_falls_on_the_grid() {
    // 1704060000 seconds, read as milliseconds, are a whole minute of January 1970.
    let row = row(1_704_060_000).replace("1704119999", "1704060059");
    let failure = read_body(TimeRange::ALL, 200, &format!("[{row}]")).unwrap_err();
    assert!(failure.error.to_string().contains("not one in milliseconds"), "{}", failure.error);
}

#[test]
fn a_page_without_any_row_that_was_asked_for_does_not_advance() {
    let failure = page_of(&[row(FIRST - 120_000), row(FIRST - 60_000)]).unwrap_err();
    assert!(failure.error.to_string().contains("does not advance"), "{}", failure.error);
    assert_eq!(failure.reason, Some(Reason::BadAnswer));
}

#[test]
fn errors_are_told_apart_by_their_code_whatever_the_status() {
    let cases = [
        (400, -1121, ErrorKind::NotFound, None),
        (400, -1120, ErrorKind::InvalidInput, None),
        (400, -1100, ErrorKind::InvalidInput, None),
        (200, -1003, ErrorKind::Unavailable, Some(Reason::RateLimited)),
        (200, -1001, ErrorKind::Unavailable, Some(Reason::ServerError)),
    ];
    for (status, code, kind, reason) in cases {
        let body = format!(r#"{{"code":{code},"msg":"So it is."}}"#);
        let failure = read_body(asked(), status, &body).unwrap_err();
        assert_eq!((failure.error.kind(), failure.reason), (kind, reason), "{code}");
        assert!(failure.error.to_string().contains("So it is."), "{}", failure.error);
    }
}

#[test]
fn other_servers_and_damaged_answers_are_not_taken_for_rows() {
    let absent = read_body(asked(), 404, "<html>nothing here</html>").unwrap_err();
    assert_eq!((absent.reason, absent.error.is_retryable()), (None, false));
    for body in ["<html>Welcome</html>", "[[1704067200000,\"1\"]]", "[[", "", "{}"] {
        let failure = read_body(asked(), 200, body).unwrap_err();
        assert_eq!(failure.reason, Some(Reason::BadAnswer), "{body}");
        assert!(failure.error.to_string().contains("not what Binance's API sends"), "{}", failure.error);
    }
}
