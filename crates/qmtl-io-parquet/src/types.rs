//! Which Arrow types come back from Parquet bit for bit.

use qmtl_history_api::arrow_schema::{DataType, IntervalUnit};

/// Whether every value of this type survives a round trip, type included.
pub(crate) fn holds(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Null | Boolean => true,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => true,
        Float16 | Float32 | Float64 => true,
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale) => u8::try_from(*scale).is_ok_and(|scale| scale <= *precision),
        Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..) | Duration(_) => true,
        Interval(unit) => *unit != IntervalUnit::MonthDayNano,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        FixedSizeBinary(bytes) => *bytes > 0,
        List(item) | LargeList(item) => holds(item.data_type()),
        FixedSizeList(item, length) => *length > 0 && holds(item.data_type()),
        Struct(fields) => !fields.is_empty() && fields.iter().all(|field| holds(field.data_type())),
        Map(entries, _) => holds(entries.data_type()),
        // Dictionaries of merged rows can outgrow their key type; the rest has no Parquet form.
        Dictionary(..) | RunEndEncoded(..) | Union(..) | ListView(_) | LargeListView(_) => false,
    }
}
