//! Where the bytes of an export go, compressed or not.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;
use zstd::stream::write::Encoder;

/// A file, a pipe or stdout.
pub(crate) type Output = Box<dyn Write + Send>;

/// What is done to the bytes of a table on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Nothing.
    Plain,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
    /// `.zip`, which only a file takes.
    Zip,
}

/// A writer whose end must be said: what is dropped before cannot pass for a whole.
pub(crate) enum Sink {
    Plain(Output),
    Gzip(Gzip),
    Zstd(Encoder<'static, Output>),
    Zip(Box<ZipWriter<BufWriter<File>>>),
}

impl Sink {
    /// Onto anything that is written from its start to its end.
    pub(crate) fn new(packing: Packing, out: Output) -> io::Result<Self> {
        Ok(match packing {
            Packing::Plain => Self::Plain(out),
            Packing::Gzip => {
                let out = Gate { out, is_shut: false };
                Self::Gzip(Gzip(Some(Box::new(GzEncoder::new(out, Compression::default())))))
            }
            Packing::Zstd => Self::Zstd(Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            Packing::Zip => return Err(io::Error::other("a zip is written to a file")),
        })
    }

    /// A zip with one entry.
    pub(crate) fn zip(file: File, entry: &str) -> io::Result<Self> {
        let mut zip = ZipWriter::new(BufWriter::new(file));
        zip.start_file(entry, SimpleFileOptions::default().large_file(true))?;
        Ok(Self::Zip(Box::new(zip)))
    }

    /// Writes what is still held, and the end.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Gzip(mut gzip) => match gzip.0.take() {
                Some(encoder) => encoder.finish()?.out.flush(),
                None => Ok(()),
            },
            Self::Zstd(encoder) => encoder.finish()?.flush(),
            Self::Zip(zip) => zip.finish()?.flush(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(Gzip(Some(encoder))) => encoder.write(bytes),
            Self::Gzip(Gzip(None)) => Ok(bytes.len()),
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Zip(zip) => zip.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(Gzip(Some(encoder))) => encoder.flush(),
            Self::Gzip(Gzip(None)) => Ok(()),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Zip(zip) => zip.flush(),
        }
    }
}

/// An encoder that writes no end when it is dropped: half a table in a pipe would pass for all of it.
pub(crate) struct Gzip(Option<Box<GzEncoder<Gate>>>);

impl Drop for Gzip {
    fn drop(&mut self) {
        if let Some(encoder) = &mut self.0 {
            encoder.get_mut().is_shut = true;
        }
    }
}

/// An output that takes nothing any more once it is shut.
struct Gate {
    out: Output,
    is_shut: bool,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_shut { Ok(bytes.len()) } else { self.out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn unpacked(packing: Packing, bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        match packing {
            Packing::Gzip => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text)?,
            _ => zstd::Decoder::new(bytes)?.read_to_string(&mut text)?,
        };
        Ok(text)
    }

    #[test]
    fn what_is_not_finished_does_not_unpack_as_a_whole() {
        for packing in [Packing::Gzip, Packing::Zstd] {
            let [whole, cut] = [Shared::default(), Shared::default()];
            let mut sink = Sink::new(packing, Box::new(whole.clone())).unwrap();
            sink.write_all(b"a line\n").unwrap();
            sink.finish().unwrap();
            assert_eq!(unpacked(packing, &whole.0.lock().unwrap()).unwrap(), "a line\n");
            let mut sink = Sink::new(packing, Box::new(cut.clone())).unwrap();
            sink.write_all(b"a line\n").unwrap();
            sink.flush().unwrap();
            drop(sink);
            assert!(unpacked(packing, &cut.0.lock().unwrap()).is_err());
        }
    }
}
