//! What messages of Arrow IPC claim, checked before the decoder believes it: it reserves what a length says, and ends the
//! program where that cannot be had.

use arrow_ipc::{Field, MessageHeader, RecordBatch, Schema, Type, root_as_message};
use qmtl_history_api::Result;

use super::super::bytes::{FileBytes, corrupt, io_error};
use super::read_exact;

/// What begins a message since version 0.15 of Arrow.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// How deep types may lie in one another.
const DEPTH: usize = 64;
/// More rows than a batch can have.
const MAX_ROWS: i64 = 1 << 40;

/// `Corrupt` unless every message of a stream claims what can be.
pub(super) fn check_stream(bytes: &FileBytes, cap: u64) -> Result<()> {
    let mut at = 0;
    while let Some(head) = head_of(bytes, at)? {
        let body = check(bytes, (at, head), None, cap)?;
        at = at.saturating_add(head).saturating_add(body);
    }
    Ok(())
}

/// `Corrupt` unless the message at a place, of a head and a body as long as the footer says, claims what can be.
pub(super) fn check_block(bytes: &FileBytes, (at, head, body): (u64, u64, u64), cap: u64) -> Result<()> {
    check(bytes, (at, head), Some(body), cap).map(drop)
}

/// The bytes of the head of the message at a place; `None` at the end.
fn head_of(bytes: &FileBytes, at: u64) -> Result<Option<u64>> {
    let word = |at| -> Result<Option<[u8; 4]>> {
        let mut word = [0; 4];
        Ok((bytes.read_at(&mut word, at).map_err(io_error)? == 4).then_some(word))
    };
    let (prefix, length) = match word(at)? {
        Some(CONTINUATION) => (8, word(at + 4)?),
        first => (4, first),
    };
    let Some(length) = length.map(i32::from_le_bytes).filter(|length| *length != 0) else { return Ok(None) };
    let length = u64::try_from(length).map_err(|_| wrong("a message has a negative length"))?;
    Ok(Some(prefix + length))
}

/// Checks the message at a place with a head of so many bytes; the bytes of its body.
fn check(bytes: &FileBytes, (at, head_bytes): (u64, u64), footer: Option<u64>, cap: u64) -> Result<u64> {
    let head_length = usize::try_from(head_bytes).map_err(|_| wrong("a message is too long"))?;
    let head = read_exact(bytes, at, head_length)?;
    let prefix = if head.starts_with(&CONTINUATION) { 8 } else { 4 };
    let flat = head.get(prefix..).ok_or_else(|| wrong("a message is too short"))?;
    let flat =
        root_as_message(flat).map_err(|e| wrong("a message cannot be read").caused_by(e.to_string()))?;
    let claimed = u64::try_from(flat.bodyLength()).map_err(|_| wrong("a body has a negative length"))?;
    let body_bytes = footer.unwrap_or(claimed);
    let body_at = at.saturating_add(head_bytes);
    if body_at.checked_add(body_bytes).is_none_or(|end| end > bytes.len()) {
        return Err(wrong("a message claims more bytes than the file has"));
    }
    let batch = match flat.header_type() {
        MessageHeader::Schema => {
            return flat.header_as_schema().map_or(Ok(()), check_schema).map(|()| body_bytes);
        }
        MessageHeader::RecordBatch => flat.header_as_record_batch(),
        MessageHeader::DictionaryBatch => flat.header_as_dictionary_batch().and_then(|batch| batch.data()),
        _ => None,
    };
    let batch = batch.ok_or_else(|| wrong("a message has no rows"))?;
    check_batch(bytes, &batch, (body_at, body_bytes), cap)?;
    Ok(body_bytes)
}

/// Whether rows and buffers of a batch can be, and what its compressed buffers claim to unpack to.
fn check_batch(bytes: &FileBytes, batch: &RecordBatch<'_>, (at, length): (u64, u64), cap: u64) -> Result<()> {
    let rows = batch.nodes().into_iter().flatten().flat_map(|node| [node.length(), node.null_count()]);
    if rows.chain([batch.length()]).any(|rows| !(0..MAX_ROWS).contains(&rows)) {
        return Err(wrong("a batch claims a number of rows that cannot be"));
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let place = u64::try_from(buffer.offset()).ok().zip(u64::try_from(buffer.length()).ok());
        let place = place.filter(|(from, size)| from.checked_add(*size).is_some_and(|end| end <= length));
        let (from, size) = place.ok_or_else(|| wrong("a buffer lies outside of its message"))?;
        if batch.compression().is_none() || size == 0 {
            continue;
        }
        let mut unpacked = [0; 8];
        if size < 8 || bytes.read_at(&mut unpacked, at + from).map_err(io_error)? < 8 {
            return Err(wrong("a compressed buffer is too short"));
        }
        // As long as it is where it is not compressed.
        let unpacked = i64::from_le_bytes(unpacked);
        if unpacked != -1 && u64::try_from(unpacked).map_or(true, |unpacked| unpacked > cap) {
            return Err(wrong("a buffer claims to unpack to more than the cap (with_max_unpacked_bytes)"));
        }
    }
    Ok(())
}

/// `Corrupt` for a schema of types that cannot be, on which the decoder panics.
pub(super) fn check_schema(schema: Schema<'_>) -> Result<()> {
    let fields = schema.fields().ok_or_else(|| wrong("the schema has no fields"))?;
    fields.iter().try_for_each(|field| check_field(&field, DEPTH))
}

fn check_field(field: &Field<'_>, depth: usize) -> Result<()> {
    let children = field.children();
    let count = children.map_or(0, |children| children.len());
    let is_width = |bits: i32| matches!(bits, 8 | 16 | 32 | 64);
    let is_known = match field.type_type() {
        Type::Null | Type::Binary | Type::Utf8 | Type::Bool | Type::LargeBinary | Type::LargeUtf8 => true,
        Type::BinaryView | Type::Utf8View | Type::Struct_ => true,
        Type::Int => field.type_as_int().is_some_and(|int| is_width(int.bitWidth())),
        Type::FloatingPoint => {
            field.type_as_floating_point().is_some_and(|float| (0..=2).contains(&float.precision().0))
        }
        Type::Decimal => field.type_as_decimal().is_some_and(|decimal| {
            let (bits, digits) = (decimal.bitWidth(), decimal.precision());
            matches!(bits, 32 | 64 | 128 | 256)
                && (1..=76).contains(&digits)
                && (-76..=76).contains(&decimal.scale())
        }),
        Type::Date => field.type_as_date().is_some_and(|date| (0..=1).contains(&date.unit().0)),
        Type::Time => field.type_as_time().is_some_and(|time| match time.bitWidth() {
            32 => (0..=1).contains(&time.unit().0),
            64 => (2..=3).contains(&time.unit().0),
            _ => false,
        }),
        Type::Timestamp => {
            field.type_as_timestamp().is_some_and(|timestamp| (0..=3).contains(&timestamp.unit().0))
        }
        Type::Duration => {
            field.type_as_duration().is_some_and(|duration| (0..=3).contains(&duration.unit().0))
        }
        Type::Interval => {
            field.type_as_interval().is_some_and(|interval| (0..=2).contains(&interval.unit().0))
        }
        Type::FixedSizeBinary => {
            field.type_as_fixed_size_binary().is_some_and(|fixed| fixed.byteWidth() >= 0)
        }
        Type::FixedSizeList => {
            count == 1 && field.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0)
        }
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView | Type::Map => count == 1,
        Type::RunEndEncoded => count == 2,
        _ => false,
    };
    let dictionary = field.dictionary();
    let is_indexed = dictionary
        .is_none_or(|dictionary| dictionary.indexType().is_some_and(|int| is_width(int.bitWidth())));
    if !is_known || !is_indexed || depth == 0 {
        return Err(wrong("a column has a type that cannot be or is not read")
            .with("column", field.name().unwrap_or("")));
    }
    children.into_iter().flatten().try_for_each(|child| check_field(&child, depth - 1))
}

fn wrong(what: &str) -> qmtl_history_api::Error {
    corrupt(&format!("the Arrow file is damaged or cut off: {what}"))
}
