//! Pages as the API writes them, and everything that it might write instead.

use qmtl_history_api::Interval;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type};
use qmtl_history_api::arrow_schema::DataType;

use super::*;

const FIRST: i64 = 1_704_067_200_000;

fn row(opens: i64) -> String {
    let closes = opens + 59_999;
    format!(r#"[{opens},"0.00005330","5.4","5.2","0.1","431401.97870000",{closes},"23.5",17,"1","2.5","0"]"#)
}

fn read_body(status: u16, body: &str) -> Result<RecordBatch, Failure> {
    rows(&SeriesKey::new("ADABTC", Interval::MINUTE).unwrap(), &Answer::new(status, body))
}

fn page_of(rows: &[String]) -> Result<RecordBatch, Failure> {
    read_body(200, &format!("[{}]", rows.join(",")))
}

fn times(page: &RecordBatch) -> Vec<i64> {
    frame::timestamps(page).unwrap().values().iter().map(|micros| micros / 1_000).collect()
}

#[test]
fn a_page_has_the_columns_of_an_archive_and_exact_values() {
    let page = page_of(&[row(FIRST), row(FIRST + 120_000)]).unwrap();
    let names: Vec<_> = page.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        names.join(","),
        "ts,open,high,low,close,volume,quote_volume,trades,taker_base_volume,taker_quote_volume"
    );
    assert_eq!(page.schema().field_with_name("trades").unwrap().data_type(), &DataType::Int64);
    assert_eq!(page.column(1).as_primitive::<Float64Type>().value(0), 5.33e-5);
    assert_eq!(page.column(5).as_primitive::<Float64Type>().value(1), 431_401.978_7);
    assert_eq!(page.column(7).as_primitive::<Int64Type>().value(0), 17);
    assert_eq!(times(&page), [FIRST, FIRST + 120_000]);
}

#[test]
fn a_page_without_rows_is_an_answer() {
    assert_eq!(page_of(&[]).unwrap().num_rows(), 0);
}

#[test]
fn rows_out_of_order_twice_or_off_the_grid_are_left_to_the_reader() {
    let page = page_of(&[row(FIRST + 60_000), row(FIRST), row(FIRST), row(FIRST + 67_000)]).unwrap();
    assert_eq!(times(&page), [FIRST + 60_000, FIRST, FIRST, FIRST + 67_000]);
}

#[test]
fn what_cannot_be_an_answer_names_series_column_and_row() {
    let huge = row(FIRST).replace("5.4", &format!("1{}", "0".repeat(400)));
    let cases = [
        (row(FIRST * 1_000), "not in milliseconds", "open_time"),
        (row(i64::MAX - 60_000), "not in milliseconds", "open_time"),
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
    assert!(
        text.contains("a bar of an interval that was not asked for") && text.contains("length_ms: 300000"),
        "{text}"
    );
}

#[test]
fn a_bar_in_seconds_is_known_by_its_length_even_where_it_falls_on_the_grid() {
    // 1704060000 seconds, read as milliseconds, are a whole minute of January 1970.
    let row = row(1_704_060_000).replace("1704119999", "1704060059");
    let failure = read_body(200, &format!("[{row}]")).unwrap_err();
    assert!(failure.error.to_string().contains("not in milliseconds"), "{}", failure.error);
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
        let failure = read_body(status, &body).unwrap_err();
        assert_eq!((failure.error.kind(), failure.reason), (kind, reason), "{code}");
        assert!(failure.error.to_string().contains("So it is."), "{}", failure.error);
    }
}

#[test]
fn other_servers_and_damaged_answers_are_not_taken_for_rows() {
    let absent = read_body(404, "<html>nothing here</html>").unwrap_err();
    assert_eq!((absent.reason, absent.error.is_retryable()), (None, false));
    for body in ["<html>Welcome</html>", "[[1704067200000,\"1\"]]", "[[", "", "{}"] {
        let failure = read_body(200, body).unwrap_err();
        assert_eq!(failure.reason, Some(Reason::BadAnswer), "{body}");
        assert!(failure.error.to_string().contains("not what Binance's API sends"), "{}", failure.error);
    }
}
