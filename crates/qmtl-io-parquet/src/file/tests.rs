//! Files: every type comes back bit for bit, and no changed byte goes unnoticed.

use std::fs::File;
use std::sync::Arc;

use proptest::prelude::*;
use qmtl_history_api::arrow_array::builder::{
    FixedSizeBinaryBuilder, FixedSizeListBuilder, Float64Builder, Int32Builder, LargeListBuilder,
    ListBuilder, MapBuilder, StringBuilder,
};
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array, Decimal32Array,
    Decimal64Array, Decimal128Array, Decimal256Array, DictionaryArray, DurationMillisecondArray,
    DurationNanosecondArray, DurationSecondArray, Float16Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, IntervalDayTimeArray, IntervalMonthDayNanoArray,
    IntervalYearMonthArray, LargeBinaryArray, LargeStringArray, NullArray, StringArray, StringViewArray,
    StructArray, Time32MillisecondArray, Time32SecondArray, Time64MicrosecondArray, Time64NanosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array, types::Int32Type,
};
use qmtl_history_api::arrow_schema::{DataType, Field, Fields};
use qmtl_history_api::{Coverage, ErrorKind, Interval, SeriesKey};
use tempfile::TempDir;

use super::*;
use crate::disk::Folder;
use crate::footer::Kind;
use crate::layout::Partition;
use crate::types::holds;

const CODECS: [Codec; 3] = [Codec::Lz4, Codec::Zstd, Codec::None];

/// Bars `0, step, 2 step, ...` minutes into a partition, with one payload column.
fn batch(column: ArrayRef, step: i64) -> RecordBatch {
    let start = Partition::around(Interval::MINUTE, "2024-01-01".parse().unwrap()).range().start();
    let rows = i64::try_from(column.len()).unwrap();
    let points = (0..rows).map(|row| start.checked_add_micros(row * step * 60_000_000).unwrap());
    let schema = frame::schema_of([("x", column.data_type().clone())]);
    RecordBatch::try_new(schema, vec![Arc::new(frame::ts_array(points)), column]).unwrap()
}

fn footer(rows: &RecordBatch) -> Footer {
    let key = SeriesKey::new("x", Interval::MINUTE).unwrap();
    let coverage = Coverage::of_present(frame::row_runs(&key, rows).unwrap());
    let partition = Some(Partition::around(Interval::MINUTE, "2024-01-01".parse().unwrap()));
    let count = rows.num_rows() as u64;
    Footer {
        kind: Kind::Full,
        key,
        partition,
        seq: 1,
        built_on: None,
        base: None,
        rows: count,
        coverage,
        inherits: false,
        attempt: None,
    }
}

struct Written {
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Written {
    fn new(rows: &RecordBatch, codec: Codec, row_group_rows: usize) -> Self {
        let bytes = Encoder { codec, row_group_rows }.encode(&footer(rows), rows).unwrap().0;
        let written = Self { folder: TempDir::new().unwrap(), bytes };
        std::fs::write(written.path(), &written.bytes).unwrap();
        written
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0000000001.parquet")
    }

    fn read(&self) -> Result<Vec<RecordBatch>> {
        let file =
            StoredFile::open(&Folder::new(self.folder.path()), &self.path())?.expect("the file is there");
        file.read(TimeRange::ALL, file.schema())
    }
}

fn check_round_trip(column: ArrayRef) {
    let data_type = column.data_type().clone();
    let rows = batch(column, 1);
    for codec in CODECS {
        let written = Written::new(&rows, codec, 2);
        let read = written.read().unwrap();
        assert!(
            read.iter().all(|batch| batch.schema() == rows.schema()),
            "{data_type}: {:?}",
            read[0].schema()
        );
        let mut from = 0;
        for part in read {
            let expected = rows.slice(from, part.num_rows());
            assert_eq!(part, expected, "{data_type} with {codec:?}");
            assert_eq!(bits(part.column(1)), bits(expected.column(1)), "{data_type} with {codec:?}");
            from += part.num_rows();
        }
        assert_eq!(from, rows.num_rows(), "{data_type}");
    }
}

/// The bits of valid floats, which equality of arrays might not tell apart.
fn bits(column: &ArrayRef) -> Vec<Option<u64>> {
    match column.as_any().downcast_ref::<Float64Array>() {
        Some(floats) => floats.iter().map(|value| value.map(f64::to_bits)).collect(),
        None => Vec::new(),
    }
}

fn flat_columns() -> Vec<ArrayRef> {
    let floats = [
        Some(f64::NAN),
        Some(f64::from_bits(0x7ff8_0000_dead_beef)),
        Some(f64::from_bits(0xfff0_0000_0000_0001)),
        None,
        Some(-0.0),
        Some(0.0),
        Some(f64::NEG_INFINITY),
        Some(f64::MIN_POSITIVE / 2.0),
    ];
    let texts = [Some(""), None, Some("🦀"), Some("a text that is longer than twelve bytes"), Some("\0")];
    let bytes = [Some(&b""[..]), None, Some(&[0u8, 255, 254][..]), Some(&[7u8; 40][..])];
    let longs = [Some(i64::MIN), None, Some(0), Some(i64::MAX)];
    let ints = [Some(i32::MIN), None, Some(0), Some(i32::MAX)];
    let half = |bits: u16| half_from_bits(bits);
    vec![
        Arc::new(NullArray::new(3)),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
        Arc::new(Int32Array::from_iter(ints)),
        Arc::new(Int64Array::from_iter(longs)),
        Arc::new(UInt8Array::from(vec![Some(u8::MAX), None, Some(0)])),
        Arc::new(UInt16Array::from(vec![Some(u16::MAX), None, Some(0)])),
        Arc::new(UInt32Array::from(vec![Some(u32::MAX), None, Some(0)])),
        Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)])),
        half(0x7e01),
        Arc::new(Float32Array::from(vec![Some(f32::NAN), None, Some(-0.0), Some(f32::INFINITY)])),
        Arc::new(Float64Array::from_iter(floats)),
        Arc::new(
            Decimal32Array::from(vec![Some(-999), None, Some(1)]).with_precision_and_scale(9, 2).unwrap(),
        ),
        Arc::new(
            Decimal64Array::from(vec![Some(-999), None, Some(1)]).with_precision_and_scale(18, 18).unwrap(),
        ),
        Arc::new(
            Decimal128Array::from(vec![Some(-(10i128.pow(38) - 1)), None])
                .with_precision_and_scale(38, 10)
                .unwrap(),
        ),
        Arc::new(
            Decimal256Array::from(vec![Some(7i64.into()), None]).with_precision_and_scale(76, 0).unwrap(),
        ),
        Arc::new(Date32Array::from_iter(ints)),
        Arc::new(Date64Array::from(vec![Some(1), None, Some(86_400_000), Some(-86_400_000)])),
        Arc::new(Time32SecondArray::from(vec![Some(1), None, Some(86_399)])),
        Arc::new(Time32MillisecondArray::from(vec![Some(1), None, Some(86_399_999)])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(1), None])),
        Arc::new(Time64NanosecondArray::from(vec![Some(1), None])),
        Arc::new(TimestampSecondArray::from_iter(longs)),
        Arc::new(TimestampMillisecondArray::from_iter(longs).with_timezone("Europe/Berlin")),
        Arc::new(TimestampNanosecondArray::from_iter(longs).with_timezone("+05:30")),
        Arc::new(DurationSecondArray::from_iter(longs)),
        Arc::new(DurationMillisecondArray::from_iter(longs)),
        Arc::new(DurationNanosecondArray::from_iter(longs)),
        Arc::new(IntervalYearMonthArray::from(vec![Some(-14), None, Some(i32::MAX)])),
        Arc::new(IntervalDayTimeArray::from(vec![Some(day_time(-1, 5)), None])),
        Arc::new(StringArray::from_iter(texts)),
        Arc::new(LargeStringArray::from_iter(texts)),
        Arc::new(StringViewArray::from_iter(texts)),
        Arc::new(BinaryArray::from_iter(bytes)),
        Arc::new(LargeBinaryArray::from_iter(bytes)),
        Arc::new(BinaryViewArray::from_iter(bytes)),
    ]
}

fn half_from_bits(bits: u16) -> ArrayRef {
    use qmtl_history_api::arrow_array::types::Float16Type;
    type Half = <Float16Type as qmtl_history_api::arrow_array::types::ArrowPrimitiveType>::Native;
    Arc::new(Float16Array::from(vec![Some(Half::from_bits(bits)), None, Some(Half::from_bits(0x8000))]))
}

fn day_time(
    days: i32,
    ms: i32,
) -> <qmtl_history_api::arrow_array::types::IntervalDayTimeType as qmtl_history_api::arrow_array::types::ArrowPrimitiveType>::Native
{
    qmtl_history_api::arrow_array::types::IntervalDayTimeType::make_value(days, ms)
}

fn nested_columns() -> Vec<ArrayRef> {
    let mut list = ListBuilder::new(Float64Builder::new());
    list.append_value([Some(1.5), None, Some(f64::NAN)]);
    list.append_null();
    list.append_value([]);
    let mut large = LargeListBuilder::new(ListBuilder::new(StringBuilder::new()));
    large.append_null();
    large.append(true);
    large.values().append_value([Some("a"), None]);
    large.values().append_null();
    large.append(true);
    let mut fixed = FixedSizeListBuilder::new(Int32Builder::new(), 2);
    for (value, valid) in [(1, true), (0, false), (3, true)] {
        fixed.values().append_value(value);
        fixed.values().append_null();
        fixed.append(valid);
    }
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("bid");
    map.values().append_value(1);
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let mut binary = FixedSizeBinaryBuilder::new(3);
    binary.append_value([1, 2, 3]).unwrap();
    binary.append_null();
    let tagged = Field::new("b", DataType::Int32, false)
        .with_metadata([("unit".to_owned(), "lots".to_owned())].into());
    let fields = Fields::from(vec![Field::new("a", DataType::Utf8, true), tagged]);
    let record = StructArray::new(
        fields,
        vec![
            Arc::new(StringArray::from(vec![Some("x"), None, None])),
            Arc::new(Int32Array::from(vec![1, 2, 3])),
        ],
        Some(vec![true, true, false].into()),
    );
    vec![
        Arc::new(list.finish()),
        Arc::new(large.finish()),
        Arc::new(fixed.finish()),
        Arc::new(map.finish()),
        Arc::new(binary.finish()),
        Arc::new(record),
    ]
}

#[test]
fn every_held_type_comes_back_bit_for_bit() {
    for column in flat_columns().into_iter().chain(nested_columns()) {
        assert!(holds(column.data_type()), "{}", column.data_type());
        check_round_trip(column);
    }
}

#[test]
fn what_does_not_come_back_is_not_held() {
    let dictionary: DictionaryArray<Int32Type> = ["a", "b"].into_iter().collect();
    let months = IntervalMonthDayNanoArray::from(vec![None]).data_type().clone();
    for data_type in [
        dictionary.data_type().clone(),
        months,
        DataType::FixedSizeBinary(0),
        DataType::Decimal64(18, -2),
        DataType::Struct(Fields::empty()),
        DataType::List(Arc::new(Field::new("item", dictionary.data_type().clone(), true))),
        DataType::ListView(Arc::new(Field::new("item", DataType::Int32, true))),
    ] {
        assert!(!holds(&data_type), "{data_type}");
    }
}

#[test]
fn other_readers_open_the_file() {
    let rows = batch(Arc::new(Float64Array::from_iter_values((0..100).map(f64::from))), 1);
    let written = Written::new(&rows, Codec::Zstd, 30);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(written.path()).unwrap()).unwrap();
    assert_eq!(reader.schema().fields(), rows.schema().fields());
    let total: usize = reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(total, 100);
}

#[test]
fn no_changed_byte_is_read_as_data() {
    let column = StringArray::from_iter((0..40).map(|i| (i % 3 != 0).then(|| format!("value {i}"))));
    let rows = batch(Arc::new(column), 2);
    let written = Written::new(&rows, Codec::None, 16);
    let intact = written.read().unwrap();
    for at in 0..written.bytes.len() {
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(written.path(), bytes).unwrap();
        match written.read() {
            // The leading magic says nothing about the rows.
            Ok(read) => assert!(at < 4 && read == intact, "a change at byte {at} went unnoticed"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {at}: {e:?}");
                assert!(e.to_string().contains("0000000001.parquet"), "byte {at}: {e}");
            }
        }
    }
}

#[test]
fn no_cut_file_is_read() {
    let rows = batch(Arc::new(Float64Array::from_iter_values((0..40).map(f64::from))), 1);
    let written = Written::new(&rows, Codec::Lz4, 16);
    for length in 0..written.bytes.len() {
        std::fs::write(written.path(), &written.bytes[..length]).unwrap();
        assert_eq!(written.read().unwrap_err().kind(), ErrorKind::Corrupt, "{length} bytes");
    }
}

/// A whole Parquet file with this text under this store's key.
fn strange(text: Option<&str>) -> Written {
    let rows = batch(Arc::new(NullArray::new(1)), 1);
    let written = Written::new(&rows, Codec::None, 1);
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    if let Some(text) = text {
        writer.append_key_value_metadata(KeyValue::new(KEY.to_owned(), text.to_owned()));
    }
    let mut bytes = writer.into_inner().unwrap();
    let at = footer_start(&bytes).unwrap();
    let hash = blake3::hash(&bytes[at..bytes.len() - TAIL]);
    bytes.splice(at..at, *hash.as_bytes());
    std::fs::write(written.path(), bytes).unwrap();
    written
}

#[test]
fn a_strange_parquet_file_is_told_from_a_damaged_one() {
    let message = strange(None).read().unwrap_err().to_string();
    assert!(message.starts_with("the file was not written by this store; "), "{message}");
}

#[test]
fn a_file_of_a_newer_format_is_refused_by_name() {
    let written = strange(Some(r#"{"format":4,"kind":"stripe","codec":"of tomorrow"}"#));
    let path = written.path();
    assert_eq!(
        written.read().unwrap_err().to_string(),
        format!(
            "the file has format version 4 and this program knows up to 3: upgrade the program (path: {})",
            path.display()
        )
    );
}

#[test]
fn a_footer_longer_than_the_first_guess_is_read() {
    let rows = batch(Arc::new(Int64Array::from_iter_values(0..25_000)), 2);
    let written = Written::new(&rows, Codec::Lz4, 100);
    let file = StoredFile::open(&Folder::new(written.folder.path()), &written.path()).unwrap().unwrap();
    assert!(written.bytes.len() - footer_start(&written.bytes).unwrap() > GUESS);
    assert_eq!(file.footer(), &footer(&rows));
}

#[test]
fn only_the_row_groups_and_columns_asked_for_are_touched() {
    let rows = batch(Arc::new(Float64Array::from_iter_values((0..100).map(f64::from))), 1);
    let written = Written::new(&rows, Codec::None, 10);
    let file = StoredFile::open(&Folder::new(written.folder.path()), &written.path()).unwrap().unwrap();
    let start = file.footer().partition.unwrap().range().start();
    let minute = |n: i64| start.checked_add_micros(n * 60_000_000).unwrap();
    let range = TimeRange::new(minute(35), minute(41)).unwrap();
    let read = file.read(range, file.schema()).unwrap();
    assert_eq!(read, [rows.slice(30, 10), rows.slice(40, 10)]);

    // With every chunk of the payload spoilt, the time column alone still reads.
    let mut bytes = written.bytes.clone();
    for group in file.metadata().row_groups() {
        let (offset, _) = group.column(1).byte_range();
        bytes[usize::try_from(offset).unwrap()] ^= 1;
    }
    std::fs::write(written.path(), bytes).unwrap();
    let file = StoredFile::open(&Folder::new(written.folder.path()), &written.path()).unwrap().unwrap();
    let ts_only = file.read(TimeRange::ALL, &frame::ts_only_schema()).unwrap();
    assert_eq!(ts_only.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    assert!(file.read(range, file.schema()).unwrap_err().to_string().contains("fails its checksum"));
}

#[test]
fn a_file_may_hold_no_rows() {
    let rows = RecordBatch::new_empty(frame::ts_only_schema());
    let written = Written::new(&rows, Codec::Lz4, 10);
    let file = StoredFile::open(&Folder::new(written.folder.path()), &written.path()).unwrap().unwrap();
    assert_eq!((file.schema(), file.footer().rows), (&frame::ts_only_schema(), 0));
    assert_eq!(file.read(TimeRange::ALL, file.schema()).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_come_back_whatever_the_row_groups(
        values in proptest::collection::vec(proptest::option::of(any::<u64>()), 1..300),
        step in 1i64..100,
        group in 1usize..100,
    ) {
        let column = Float64Array::from_iter(values.into_iter().map(|v| v.map(f64::from_bits)));
        let rows = batch(Arc::new(column), step);
        let written = Written::new(&rows, Codec::Lz4, group);
        let mut from = 0;
        for part in written.read().unwrap() {
            let expected = rows.slice(from, part.num_rows());
            prop_assert_eq!(bits(part.column(1)), bits(expected.column(1)));
            prop_assert_eq!(part.column(0), expected.column(0));
            from += part.num_rows();
        }
        prop_assert_eq!(from, rows.num_rows());
    }
}
