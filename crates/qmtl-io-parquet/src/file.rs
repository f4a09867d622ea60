//! One file: encoding a commit into bytes, reading it back, and proving that no byte has changed.
//!
//! A file is `PAR1`, column chunks, 32 bytes of BLAKE3 over the Parquet footer, the footer, its
//! length, `PAR1`. The footer holds a checksum of each column chunk; so nothing that is decoded is
//! taken on trust, and any Parquet reader still opens the file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes, buf::Reader};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    KeyValue, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData, SortingColumn,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::{Error, Result, TimeRange, frame};

use crate::config::Codec;
use crate::disk::{Content, Disk};
use crate::error;
use crate::footer::{Checksum, Checksums, Footer, KEY, Link, short};

const MAGIC: &[u8] = b"PAR1";
/// The footer's length and the magic at the end.
const TAIL: usize = 8;
/// The checksum before the footer.
const HASH: usize = 32;
/// How much of a file's end is read at first; nearly every footer fits.
pub(crate) const GUESS: usize = 64 * 1024;

/// How files are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub(crate) codec: Codec,
    pub(crate) row_group_rows: usize,
}

impl Encoder {
    /// The bytes of a file with these rows, and the id of the commit.
    pub(crate) fn encode(self, footer: &Footer, rows: &RecordBatch) -> Result<(Vec<u8>, String)> {
        let fault = |e: ParquetError| {
            Error::unexpected("cannot encode the rows as Parquet").with("series", &footer.key).caused_by(e)
        };
        let mut writer =
            ArrowWriter::try_new(Vec::new(), rows.schema(), Some(self.properties(rows.schema_ref())))
                .map_err(fault)?;
        writer.write(rows).map_err(fault)?;
        writer.flush().map_err(fault)?;
        writer.sync().map_err(|e| Error::unexpected("cannot encode the rows as Parquet").caused_by(e))?;
        let body = writer.inner();
        let chunks = writer
            .flushed_row_groups()
            .iter()
            .map(|group| byte_ranges(group).map(|range| Ok(Checksum::Crc32.of(&body[range?]))).collect())
            .collect::<std::result::Result<_, ParquetError>>()
            .map_err(fault)?;
        writer.append_key_value_metadata(KeyValue::new(KEY.to_owned(), footer.encode(chunks)?));
        let mut bytes = writer.into_inner().map_err(fault)?;
        let at = footer_start(&bytes).expect("a written file ends with its footer");
        let hash = blake3::hash(&bytes[at..bytes.len() - TAIL]);
        bytes.splice(at..at, *hash.as_bytes());
        Ok((bytes, short(&hash)))
    }

    fn properties(self, schema: &Schema) -> WriterProperties {
        let ts = ColumnPath::from(frame::TS);
        let properties = WriterProperties::builder()
            .set_created_by(concat!("qmtl-io-parquet ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(match self.codec {
                Codec::Lz4 => Compression::LZ4_RAW,
                Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
                Codec::None => Compression::UNCOMPRESSED,
            })
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            // No page index: everything between the magic and the footer is column chunks, all of
            // which have their checksum.
            .set_offset_index_disabled(true)
            .set_sorting_columns(Some(vec![SortingColumn {
                column_idx: 0,
                descending: false,
                nulls_first: false,
            }]))
            .set_column_encoding(ts, Encoding::DELTA_BINARY_PACKED);
        // Few prices of ten thousand bars are equal: a dictionary of numbers makes files larger and
        // writes slower. Of text it does the opposite.
        schema
            .fields()
            .iter()
            .filter(|field| field.data_type().is_primitive())
            .fold(properties, |properties, field| {
                let column = ColumnPath::new(vec![field.name().clone()]);
                properties.set_column_dictionary_enabled(column, false)
            })
            .build()
    }
}

/// Where the Parquet footer starts in bytes that end with it; `None` when it would start outside.
fn footer_start(bytes: &[u8]) -> Option<usize> {
    let (rest, tail) = bytes.split_last_chunk::<TAIL>()?;
    let length = u32::from_le_bytes(*tail.first_chunk()?);
    rest.len().checked_sub(usize::try_from(length).ok()?)
}

/// Bytes whose footer is given the checksum that fits, where they end with one.
#[cfg(test)]
pub(crate) fn rehashed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = footer_start(&bytes).and_then(|at| Some((at.checked_sub(HASH)?, at)));
    if let Some((hash_at, at)) = place {
        let hash = blake3::hash(&bytes[at..bytes.len() - TAIL]);
        bytes[hash_at..at].copy_from_slice(hash.as_bytes());
    }
    bytes
}

/// Where the column chunks of a row group stand in the file.
fn byte_ranges(
    group: &RowGroupMetaData,
) -> impl Iterator<Item = std::result::Result<Range<usize>, ParquetError>> {
    group.columns().iter().map(|column| {
        let (start, length) = column.byte_range();
        let start = usize::try_from(start)?;
        Ok(start..start + usize::try_from(length)?)
    })
}

/// A file whose footer has been read and found whole.
#[derive(Debug)]
pub(crate) struct StoredFile {
    path: PathBuf,
    content: Box<dyn Content>,
    parquet: ArrowReaderMetadata,
    schema: SchemaRef,
    footer: Footer,
    id: String,
    checksums: Checksums,
}

impl StoredFile {
    /// Opens a file and reads its footer. `Ok(None)` when there is no such file, `Corrupt` when the
    /// footer is damaged or of a newer format.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let Some(content) = disk.open(path)? else { return Ok(None) };
        error::decoded(path, || Self::with(content, path)).map(Some)
    }

    fn with(content: Box<dyn Content>, path: &Path) -> Result<Self> {
        let bytes = read_footer(&*content, path)?;
        let damaged = |e: ParquetError| error::corrupt(path, "the file's footer is damaged").caused_by(e);
        let metadata = ParquetMetaDataReader::decode_metadata(&bytes).map_err(damaged)?;
        let text = metadata
            .file_metadata()
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == KEY))
            .and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| error::corrupt(path, "the file was not written by this store"))?;
        let (footer, checksums) = Footer::decode(text, path)?;
        let groups = metadata.row_groups();
        let rows = groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum::<u64>();
        let is_consistent = rows == footer.rows
            && groups.iter().map(RowGroupMetaData::num_columns).eq(checksums.chunks.iter().map(Vec::len));
        if !is_consistent {
            return Err(error::corrupt(path, "the file's footer contradicts itself"));
        }
        let parquet =
            ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(damaged)?;
        let schema = Arc::new(Schema::new(parquet.schema().fields().clone()));
        let id = short(&blake3::hash(&bytes));
        Ok(Self { path: path.to_owned(), content, parquet, schema, footer, id, checksums })
    }

    /// The commit that this file is.
    pub(crate) fn link(&self) -> Link {
        Link { seq: self.footer.seq, id: self.id.clone() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file in bytes.
    pub(crate) fn bytes(&self) -> Result<u64> {
        self.content.size()
    }

    pub(crate) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The columns of this file.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes the row groups that overlap `range` (rows beside it may come along), those of the
    /// file's columns that `wanted` has, in the file's order. Every chunk is checked first.
    pub(crate) fn read(&self, range: TimeRange, wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let roots: Vec<bool> = self
            .schema()
            .fields()
            .iter()
            .map(|field| wanted.column_with_name(field.name()).is_some())
            .collect();
        let groups: Vec<usize> = (0..self.metadata().num_row_groups())
            .filter(|group| overlaps(self.metadata().row_group(*group), range))
            .collect();
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        error::decoded(&self.path, || self.read_groups(groups, &roots))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.parquet.metadata()
    }

    fn read_groups(&self, groups: Vec<usize>, roots: &[bool]) -> Result<Vec<RecordBatch>> {
        let damaged =
            |e: ParquetError| error::corrupt(&self.path, "the file's data cannot be decoded").caused_by(e);
        let descriptor = self.parquet.parquet_schema();
        let is_wanted = |leaf: &usize| roots[descriptor.get_column_root_idx(*leaf)];
        let mut wanted = Vec::new();
        for group in &groups {
            let ranges = byte_ranges(self.metadata().row_group(*group)).zip(&self.checksums.chunks[*group]);
            for (_, (range, expected)) in ranges.enumerate().filter(|(leaf, _)| is_wanted(leaf)) {
                wanted.push((range.map_err(damaged)?, expected.as_str()));
            }
        }
        let mut chunks = Vec::with_capacity(wanted.len());
        for run in wanted.chunk_by(|(one, _), (next, _)| one.end == next.start) {
            self.read_chunks(run, &mut chunks)?;
        }
        let rows = groups.iter().map(|group| self.metadata().row_group(*group).num_rows()).max();
        let rows = rows.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(usize::MAX);
        let leaves = (0..descriptor.num_columns()).filter(is_wanted);
        ParquetRecordBatchReaderBuilder::new_with_metadata(Chunks { chunks }, self.parquet.clone())
            .with_projection(ProjectionMask::leaves(descriptor, leaves))
            .with_row_groups(groups)
            .with_batch_size(rows)
            .build()
            .map_err(damaged)?
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| error::corrupt(&self.path, "the file's data cannot be decoded").caused_by(e))
    }

    /// Reads column chunks that follow one another at once, each with its checksum.
    fn read_chunks(&self, run: &[(Range<usize>, &str)], chunks: &mut Vec<(usize, Bytes)>) -> Result<()> {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Ok(()) };
        let length = last.end - first.start;
        let bytes = self.content.read(first.start, length)?;
        for (range, expected) in run {
            let chunk = bytes.slice(range.start - first.start..range.end - first.start);
            if self.checksums.kind.of(&chunk) != *expected {
                return Err(error::corrupt(&self.path, "the file's data fails its checksum")
                    .with("offset", range.start));
            }
            chunks.push((range.start, chunk));
        }
        Ok(())
    }
}

/// The bytes of the Parquet footer, checked.
fn read_footer(content: &dyn Content, path: &Path) -> Result<Vec<u8>> {
    let truncated = || error::corrupt(path, "the file is truncated");
    let length = usize::try_from(content.size()?).map_err(|_| truncated())?;
    let mut tail = content.read(length.saturating_sub(GUESS), GUESS.min(length))?;
    if !tail.ends_with(MAGIC) {
        return Err(truncated());
    }
    let size = tail.last_chunk::<TAIL>().and_then(|tail| tail.first_chunk()).ok_or_else(truncated)?;
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let needed = size.saturating_add(TAIL + HASH);
    let start = length.checked_sub(needed).ok_or_else(truncated)?;
    if needed > tail.len() {
        tail = content.read(start, needed)?;
    }
    let (hash, footer) = tail[tail.len() - needed..tail.len() - TAIL].split_at(HASH);
    if blake3::hash(footer).as_bytes() == hash {
        Ok(footer.to_vec())
    } else {
        Err(error::corrupt(path, "the file's footer fails its checksum"))
    }
}

/// Whether the row group's statistics allow a row of `range`.
fn overlaps(group: &RowGroupMetaData, range: TimeRange) -> bool {
    match group.column(0).statistics() {
        Some(Statistics::Int64(ts)) => {
            ts.min_opt().is_none_or(|first| *first < range.end().as_micros())
                && ts.max_opt().is_none_or(|last| *last >= range.start().as_micros())
        }
        _ => true,
    }
}

/// Column chunks in memory, by their offset in the file.
struct Chunks {
    chunks: Vec<(usize, Bytes)>,
}

impl Chunks {
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let start = usize::try_from(start)?;
        let after = self.chunks.partition_point(|(offset, _)| *offset <= start);
        after
            .checked_sub(1)
            .map(|index| &self.chunks[index])
            .filter(|(offset, bytes)| start - offset <= bytes.len())
            .map(|(offset, bytes)| bytes.slice(start - offset..))
            .ok_or_else(|| ParquetError::EOF(format!("no column chunk stands at offset {start}")))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.chunks.last().map_or(0, |(offset, bytes)| (offset + bytes.len()) as u64)
    }
}

impl ChunkReader for Chunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if length <= bytes.len() {
            Ok(bytes.slice(..length))
        } else {
            Err(ParquetError::EOF(format!("{length} bytes at offset {start} leave their column chunk")))
        }
    }
}

#[cfg(test)]
mod tests;
