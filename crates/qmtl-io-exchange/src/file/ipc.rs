//! Arrow IPC files: a block is a record batch. Streams, which have no footer to find their batches
//! by, are first rewritten as files.

mod claims;

use std::io::{BufReader, BufWriter};
use std::sync::Arc;

use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{FileDecoder, StreamReader, read_footer_length};
use arrow_ipc::writer::FileWriter;
use arrow_ipc::{Block, root_as_footer};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Result};

use super::bytes::{FileBytes, corrupt, decoded, io_error};
use super::config::FileConfig;
use super::frame::{Columns, Scanned};
use super::table::{Opened, Selection, Table};
use super::time::TsUnit;
use super::unpack::rewrite;

/// What an IPC file starts and ends with.
pub(super) const MAGIC: &[u8] = b"ARROW1";

/// The length of the footer's length and the magic behind it.
const TRAILER_BYTES: usize = 10;

/// A scanned IPC file.
#[derive(Debug)]
struct IpcTable {
    file: IpcFile,
    columns: Columns,
    unit: TsUnit,
    output: SchemaRef,
    /// The places in the file of the first rows of its blocks.
    first_rows: Vec<u64>,
}

/// An IPC file with its footer read.
#[derive(Debug)]
struct IpcFile {
    bytes: FileBytes,
    schema: SchemaRef,
    decoder: FileDecoder,
    batches: Vec<Block>,
    /// The most bytes that a buffer may unpack to.
    cap: u64,
}

/// Reads the footer and every batch's time column.
pub(super) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let mut head = [0; MAGIC.len()];
    bytes.read_at(&mut head, 0).map_err(io_error)?;
    let mut file = if head == MAGIC {
        IpcFile::open(bytes, config.max_unpacked_bytes)?
    } else {
        let bytes = rewritten(bytes, config.max_unpacked_bytes)?;
        IpcFile::open(&bytes, config.max_unpacked_bytes)?
    };
    let batches = std::mem::take(&mut file.batches);
    let (mut blocks, mut first_rows) = (Vec::new(), Vec::new());
    let scanned = Columns::new(config, &file.schema)?.scan(config, |_, take| {
        blocks.clear();
        first_rows.clear();
        let mut first_row = 0;
        for block in &batches {
            let batch = file.decode(block)?;
            if take(&batch)? {
                blocks.push(*block);
                first_rows.push(first_row);
            }
            first_row += batch.num_rows() as u64;
        }
        Ok(())
    })?;
    file.batches = blocks;
    let Scanned { columns, index, unit, bar, sole, notes } = scanned;
    let output = columns.output(unit);
    let (time, names) = (columns.time(config.zone), columns.names());
    Ok(Opened {
        table: Arc::new(IpcTable { file, columns, unit, output, first_rows }),
        index,
        unit,
        bar,
        sole,
        time,
        names,
        read_of: None,
        notes,
    })
}

/// An IPC stream as a file.
fn rewritten(bytes: &FileBytes, cap: u64) -> Result<FileBytes> {
    let damaged = |e| corrupt("cannot read the Arrow stream: it is damaged or cut off").caused_by(e);
    claims::check_stream(bytes, cap)?;
    bytes.rewritten(move |bytes| {
        rewrite(cap, |target| {
            decoded(|| {
                let stream = StreamReader::try_new(BufReader::new(bytes.cursor()), None).map_err(damaged)?;
                let mut writer =
                    FileWriter::try_new(BufWriter::new(target), &stream.schema()).map_err(damaged)?;
                for batch in stream {
                    writer.write(&batch.map_err(damaged)?).map_err(damaged)?;
                }
                writer.finish().map_err(damaged)
            })
        })
    })
}

impl IpcFile {
    fn open(bytes: &FileBytes, cap: u64) -> Result<Self> {
        let damaged = |cause: String| {
            corrupt("cannot read the footer of the Arrow file: it is damaged or cut off").caused_by(cause)
        };
        let mut trailer = [0; TRAILER_BYTES];
        let trailer_at = bytes.len().saturating_sub(TRAILER_BYTES as u64);
        bytes.read_at(&mut trailer, trailer_at).map_err(io_error)?;
        let footer_bytes = read_footer_length(trailer).map_err(|e| damaged(e.to_string()))?;
        let footer_at =
            trailer_at.checked_sub(footer_bytes as u64).ok_or_else(|| damaged("too short".into()))?;
        let footer = read_exact(bytes, footer_at, footer_bytes)?;
        let footer = root_as_footer(&footer).map_err(|e| damaged(e.to_string()))?;
        let schema = footer.schema().ok_or_else(|| damaged("no schema".into()))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(Error::schema("the Arrow file was written with another byte order"));
        }
        claims::check_schema(schema)?;
        let schema = decoded(|| Ok(Arc::new(fb_to_schema(schema))))?;
        let decoder = FileDecoder::new(Arc::clone(&schema), footer.version());
        let batches = footer.recordBatches().into_iter().flatten().copied().collect();
        let mut file = Self { bytes: bytes.clone(), schema, decoder, batches, cap };
        for block in footer.dictionaries().into_iter().flatten() {
            let buffer = file.block(block)?;
            decoded(|| file.decoder.read_dictionary(block, &buffer).map_err(unreadable))?;
        }
        Ok(file)
    }

    fn decode(&self, block: &Block) -> Result<RecordBatch> {
        let buffer = self.block(block)?;
        let batch = decoded(|| self.decoder.read_record_batch(block, &buffer).map_err(unreadable))?;
        batch.ok_or_else(|| corrupt("a batch of the Arrow file is no batch"))
    }

    /// A message and its body. Its place comes from the footer, which may be damaged.
    fn block(&self, block: &Block) -> Result<Buffer> {
        let place = || {
            let head = usize::try_from(block.metaDataLength()).ok().filter(|head| *head >= 8)?;
            let length = usize::try_from(block.bodyLength()).ok()?.checked_add(head)?;
            Some((u64::try_from(block.offset()).ok()?, head, length))
        };
        let (at, head, length) = place().ok_or_else(|| corrupt("the footer of the Arrow file is damaged"))?;
        claims::check_block(&self.bytes, (at, head as u64, (length - head) as u64), self.cap)?;
        read_exact(&self.bytes, at, length)
    }
}

/// Bytes of the file, aligned as Arrow's arrays want them.
fn read_exact(bytes: &FileBytes, at: u64, length: usize) -> Result<Buffer> {
    if at.checked_add(length as u64).is_none_or(|end| end > bytes.len()) {
        return Err(corrupt("the footer of the Arrow file points beyond the file: it is damaged or cut off"));
    }
    let mut buffer = MutableBuffer::from_len_zeroed(length);
    bytes.read_at(&mut buffer, at).map_err(io_error)?;
    Ok(buffer.into())
}

fn unreadable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    corrupt("cannot read the rows of the Arrow file: it is damaged or compressed in an unknown way")
        .caused_by(cause)
}

impl Table for IpcTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        let batch = self.file.decode(&self.file.batches[block])?;
        let at = (&batch, self.first_rows[block]);
        self.columns.select(at, rows, (self.unit, &self.output)).map(|batch| vec![batch])
    }
}

#[cfg(test)]
mod tests;
