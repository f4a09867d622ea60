//! Damaged Arrow files: no byte of them is believed blindly.

use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use qmtl_history_api::ErrorKind;
use qmtl_history_api::arrow_array::types::Int32Type;
use qmtl_history_api::arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListArray, StringArray,
};
use tempfile::TempDir;

use super::*;
use crate::file::fuzz;

/// Ten bars with a column of each shape that buffers have.
fn rows() -> RecordBatch {
    let at = |index: i64| 1_704_067_200_000 + 60_000 * index;
    let venues: DictionaryArray<Int32Type> = (0..10).map(|index| Some(["spot", "dark"][index % 2])).collect();
    let columns: [(&str, ArrayRef); 6] = [
        ("ts", Arc::new(Int64Array::from_iter_values((0..10).map(at)))),
        ("close", Arc::new(Float64Array::from_iter_values((0..10).map(f64::from)))),
        ("note", Arc::new(StringArray::from_iter((0..10).map(|index| (index != 3).then_some("text"))))),
        ("is_final", Arc::new(BooleanArray::from_iter((0..10).map(|index| Some(index != 9))))),
        ("venue", Arc::new(venues)),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
                (0..10).map(|index| Some(vec![Some(index)])),
            )),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn file(compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &rows().schema(), options).unwrap();
    writer.write(&rows()).unwrap();
    writer.into_inner().unwrap()
}

fn stream() -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows().schema()).unwrap();
    writer.write(&rows()).unwrap();
    writer.into_inner().unwrap()
}

/// Opens bytes as a file in this folder, and reads all that they hold.
fn read(folder: &TempDir, bytes: &[u8]) -> Result<u64> {
    fuzz::read(&folder.path().join("x.arrow"), bytes, None)
}

#[test]
fn any_byte_may_be_wrong_and_the_error_says_what_is_damaged() {
    let folder = TempDir::new().unwrap();
    let formats =
        [file(None), file(Some(CompressionType::LZ4_FRAME)), file(Some(CompressionType::ZSTD)), stream()];
    for whole in formats {
        assert_eq!(read(&folder, &whole).unwrap(), 10);
        for at in 0..whole.len() {
            for wrong in [whole[at] ^ 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = wrong;
                if let Err(error) = read(&folder, &bytes) {
                    assert!(
                        !matches!(error.kind(), ErrorKind::Unexpected | ErrorKind::Storage),
                        "{at}: {error}"
                    );
                }
            }
        }
        for length in 0..whole.len() {
            // A stream may end behind any message.
            assert!(read(&folder, &whole[..length]).is_err() || whole.starts_with(&[0xff; 4]), "{length}");
        }
    }
}

#[test]
fn a_length_that_cannot_be_reserves_nothing() {
    let folder = TempDir::new().unwrap();
    let bytes = stream();
    // The body's length is the eight bytes that hold it in the head of the second message.
    let body = i64::try_from(bytes.len()).unwrap();
    let mut tried = 0;
    for at in 0..bytes.len() - 8 {
        let value = i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        if (64..body).contains(&value) && value % 8 == 0 {
            let mut wrong = bytes.clone();
            wrong[at..at + 8].copy_from_slice(&(1_i64 << 62).to_le_bytes());
            tried += 1;
            if let Err(error) = read(&folder, &wrong) {
                assert!(!matches!(error.kind(), ErrorKind::Unexpected | ErrorKind::Storage), "{at}: {error}");
            }
        }
    }
    assert!(tried > 0);
}
