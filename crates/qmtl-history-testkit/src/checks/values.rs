//! What values become in a store: `H-WRITE-06`.

use std::sync::Arc;

use qmtl_history_api::arrow_array::builder::{Float64Builder, ListBuilder};
use qmtl_history_api::arrow_array::types::{ArrowPrimitiveType, Decimal256Type, Int32Type};
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, Decimal256Array,
    DictionaryArray, DurationMicrosecondArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, StringArray, StringViewArray,
    StructArray, Time64MicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array, new_null_array,
};
use qmtl_history_api::arrow_schema::{DataType, Field};
use qmtl_history_api::{ErrorKind, OnConflict, arrow_select};

use crate::Subject;
use crate::probe::Probe;

type I256 = <Decimal256Type as ArrowPrimitiveType>::Native;

/// What became of a column.
#[derive(Debug, PartialEq)]
enum Fate {
    Held,
    Refused,
}

/// Writes a column into a series of its own: it must come back bit for bit or be refused for good.
async fn fate(series: &Probe, values: &ArrayRef) -> Fate {
    let count = u32::try_from(values.len()).expect("a few values");
    let rows = series.column("value", 0..count, Arc::clone(values));
    let request = series.request(OnConflict::KeepExisting);
    if series.backend.write_rows(&request, rows.clone()).await.is_ok() {
        let read = series.read(series.span(0, count)).await;
        assert_eq!(read, rows, "values were altered");
        return Fate::Held;
    }
    let error = series.refused(&request, rows).await;
    let is_refusal =
        matches!(error.kind(), ErrorKind::Schema | ErrorKind::InvalidInput | ErrorKind::Unsupported);
    assert!(is_refusal, "not the kind of a refusal: {error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&series.key.to_string()) && text.contains("value"),
        "must name series and column: {text}"
    );
    Fate::Refused
}

/// `H-WRITE-06`: finite floats, zeros of both signs and null come back bit for bit; infinities do
/// or are refused.
pub async fn h_write_06_floats_bit_for_bit(subject: &Subject) {
    let finite = [0.0, -0.0, 0.1 + 0.2, f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX, f64::MIN, 1e-320];
    let values: ArrayRef = Arc::new(finite.into_iter().map(Some).chain([None]).collect::<Float64Array>());
    assert_eq!(fate(&subject.probe("finite", "1m"), &values).await, Fate::Held);
    let nulls = new_null_array(&DataType::Float64, 3);
    assert_eq!(fate(&subject.probe("null", "1m"), &nulls).await, Fate::Held);
    for (node, value) in [("plus", f64::INFINITY), ("minus", f64::NEG_INFINITY)] {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![value]));
        fate(&subject.probe(node, "1m"), &values).await;
    }
}

/// `H-WRITE-06`: NaN survives with its sign and payload where the store says so, and is refused
/// where not; null beside it stays null.
pub async fn h_write_06_nan_as_declared(subject: &Subject) {
    let promised = if subject.backend().capabilities().nan { Fate::Held } else { Fate::Refused };
    let quiet = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff8_0000_dead_beef)];
    let values: ArrayRef =
        Arc::new(quiet.into_iter().map(Some).chain([None, Some(1.0)]).collect::<Float64Array>());
    assert_eq!(fate(&subject.probe("f64", "1m"), &values).await, promised);
    if subject.backend().capabilities().holds(&DataType::Float32) {
        let values: ArrayRef = Arc::new(Float32Array::from(vec![Some(f32::NAN), None, Some(-0.0)]));
        assert_eq!(fate(&subject.probe("f32", "1m"), &values).await, promised);
    }
}

/// `H-WRITE-06`: strings come back byte for byte, or are refused; plain ones must be held.
pub async fn h_write_06_strings_byte_for_byte(subject: &Subject) {
    if !subject.backend().capabilities().holds(&DataType::Utf8) {
        return;
    }
    let plain: ArrayRef = Arc::new(StringArray::from(vec!["buy", "sell", "BTC/USDT"]));
    assert_eq!(fate(&subject.probe("plain", "1m"), &plain).await, Fate::Held);
    let long = "x".repeat(100_000);
    let hard =
        ["", " ", "null", "NaN", "é", "e\u{301}", "🦀", "a\nb\r\n", "a\0b", "'; --", "\"", "\\N", &long];
    for (index, text) in hard.into_iter().enumerate() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some(text), None, Some("after")]));
        fate(&subject.probe(&format!("hard-{index}"), "1m"), &values).await;
    }
}

/// `H-WRITE-06`: a type that the store says it holds round-trips, every other one is refused.
pub async fn h_write_06_every_type_held_or_refused(subject: &Subject) {
    let capabilities = subject.backend().capabilities();
    assert!(capabilities.holds(&DataType::Float64), "a store of bars holds Float64");
    for (index, values) in samples().into_iter().enumerate() {
        let node = format!("{index}");
        let promised = if capabilities.holds(values.data_type()) { Fate::Held } else { Fate::Refused };
        assert_eq!(fate(&subject.probe(&node, "1m"), &values).await, promised, "{}", values.data_type());
        let with_null = new_null_array(values.data_type(), 1);
        let mixed = arrow_select::concat::concat(&[&values, &with_null, &values]).expect("one type");
        let fate = fate(&subject.probe(&node, "5m"), &mixed).await;
        assert!(fate == Fate::Refused || promised == Fate::Held, "{} is not held", values.data_type());
    }
}

/// A few values without null of every type that a node may emit.
fn samples() -> Vec<ArrayRef> {
    let mut lists = ListBuilder::new(Float64Builder::new());
    lists.append_value([Some(1.0), None, Some(-0.0)]);
    lists.append_value([]);
    let side: ArrayRef = Arc::new(StringArray::from(vec!["buy", ""]));
    let size: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None]));
    let trade = StructArray::from(vec![
        (Arc::new(Field::new("side", DataType::Utf8, true)), side),
        (Arc::new(Field::new("size", DataType::Float64, true)), size),
    ]);
    let decimals = Decimal128Array::from(vec![i128::from(i64::MAX) * 10, -1]);
    let wide = Decimal256Array::from(vec![I256::from_i128(i128::MAX), I256::from_i128(-1)]);
    vec![
        Arc::new(BooleanArray::from(vec![true, false])),
        Arc::new(Int8Array::from(vec![i8::MIN, i8::MAX])),
        Arc::new(Int16Array::from(vec![i16::MIN, i16::MAX])),
        Arc::new(Int32Array::from(vec![i32::MIN, i32::MAX])),
        Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])),
        Arc::new(UInt8Array::from(vec![0, u8::MAX])),
        Arc::new(UInt16Array::from(vec![0, u16::MAX])),
        Arc::new(UInt32Array::from(vec![0, u32::MAX])),
        Arc::new(UInt64Array::from(vec![0, u64::MAX])),
        Arc::new(Float32Array::from(vec![-0.0, f32::MIN_POSITIVE])),
        Arc::new(Float64Array::from(vec![-0.0, 0.1])),
        Arc::new(StringArray::from(vec!["", "🦀"])),
        Arc::new(LargeStringArray::from(vec!["", "🦀"])),
        Arc::new(StringViewArray::from(vec!["", "longer than twelve bytes"])),
        Arc::new(BinaryArray::from_vec(vec![b"", b"\x00\xff"])),
        Arc::new(LargeBinaryArray::from_vec(vec![b"", b"\x00\xff"])),
        Arc::new(
            FixedSizeBinaryArray::try_from_iter([[0_u8, 255], [1, 2]].into_iter()).expect("of one size"),
        ),
        Arc::new(Date32Array::from(vec![0, 19_723])),
        Arc::new(Date64Array::from(vec![0, 86_400_000])),
        Arc::new(Time64MicrosecondArray::from(vec![0, 86_399_999_999])),
        Arc::new(DurationMicrosecondArray::from(vec![-1, i64::MAX])),
        Arc::new(TimestampMillisecondArray::from(vec![0, 1_704_067_200_001])),
        Arc::new(TimestampNanosecondArray::from(vec![1, 1_704_067_200_000_000_001]).with_timezone("UTC")),
        Arc::new(decimals.with_precision_and_scale(38, 10).expect("it fits")),
        Arc::new(wide.with_precision_and_scale(76, 10).expect("it fits")),
        Arc::new(["buy", "sell", "buy"].into_iter().collect::<DictionaryArray<Int32Type>>()),
        Arc::new(lists.finish()),
        Arc::new(trade),
    ]
}
