//! Cutting against a model that writes the text it cuts.

use proptest::prelude::*;

use super::*;

/// All records of `text`, which is shown to the splitter a growing piece at a time.
fn cut(text: &str, step: usize) -> Result<Vec<(u64, Vec<String>)>, SplitFault> {
    let (mut splitter, mut found) = (Splitter::new(b','), Vec::new());
    let (mut start, mut end, mut line) = (0, 0, 1);
    while start < text.len() {
        end = text.len().min(end + step);
        let mut records = splitter.records(&text.as_bytes()[start..end], line, end == text.len());
        while let Some(record) = records.next()? {
            let fields = (0..record.len()).map(|at| String::from_utf8_lossy(record.field(at)).into_owned());
            found.push((record.line, fields.collect()));
        }
        let used = records.position;
        line = records.line;
        start += used;
        if end == text.len() {
            assert_eq!(start, end);
        }
    }
    Ok(found)
}

fn check(text: &str, expected: &[(u64, &[&str])]) {
    for step in [1, 2, 3, text.len().max(1)] {
        let found = cut(text, step).unwrap();
        let found: Vec<(u64, Vec<&str>)> =
            found.iter().map(|(line, fields)| (*line, fields.iter().map(String::as_str).collect())).collect();
        let expected: Vec<_> = expected.iter().map(|(line, fields)| (*line, fields.to_vec())).collect();
        assert_eq!(found, expected, "{text:?} by {step}");
    }
}

#[test]
fn lines_ends_and_quotes() {
    check("", &[]);
    check("a,b\n1,2", &[(1, &["a", "b"]), (2, &["1", "2"])]);
    check("a,b\r\n\r\n\n1,\r\n", &[(1, &["a", "b"]), (4, &["1", ""])]);
    check("\"a,b\",\"say \"\"hi\"\"\"\r\n1,2\n", &[(1, &["a,b", "say \"hi\""]), (2, &["1", "2"])]);
    check("\"two\nlines\",x\n1,2\n", &[(1, &["two\nlines", "x"]), (3, &["1", "2"])]);
    check("1,\"last\"", &[(1, &["1", "last"])]);
    check("1,\"last\"\r", &[(1, &["1", "last"])]);
    check("\"\"\r,\n", &[(1, &["\r", ""])]);
    check("\"kept\r\"\r\n", &[(1, &["kept\r"])]);
}

#[test]
fn what_cannot_be_cut() {
    let long = "x".repeat(MAX_LINE_BYTES - 1);
    assert_eq!(cut(&format!("{long}\n1"), 1 << 20).unwrap().len(), 2);
    assert_eq!(cut(&format!("{long}x\n1"), 1 << 20), Err(SplitFault::TooLong));
    assert_eq!(cut(&format!("{long}x"), 1 << 12), Err(SplitFault::TooLong));
    assert_eq!(cut(&format!("\"{long}x\"\n1"), 1 << 20), Err(SplitFault::TooLong));
    assert_eq!(cut(&format!("\"{}", "x\n".repeat(MAX_LINE_BYTES)), 1 << 20), Err(SplitFault::TooLong));
    assert_eq!(cut("1,\"open", 1 << 20), Err(SplitFault::OpenQuote));
    assert_eq!(cut(&",".repeat(MAX_FIELDS - 1), 1 << 20).unwrap()[0].1.len(), MAX_FIELDS);
    assert_eq!(cut(&",".repeat(MAX_FIELDS), 1 << 20), Err(SplitFault::TooManyFields));
    assert_eq!(cut(&format!("\"\"{}\n", ",".repeat(MAX_FIELDS)), 1 << 20), Err(SplitFault::TooManyFields));
}

proptest! {
    #[test]
    fn what_was_written_is_cut(
        records in prop::collection::vec(prop::collection::vec(("[a-c,\"\n é]{0,6}", any::<bool>()), 2..6), 0..12),
        ending in prop_oneof![Just("\n"), Just("\r\n")],
        ends in any::<bool>(),
        step in 1usize..60,
    ) {
        let write = |(value, quoted): &(String, bool)| {
            if *quoted || value.contains([',', '"', '\n']) {
                format!("\"{}\"", value.replace('"', "\"\""))
            } else {
                value.clone()
            }
        };
        let lines: Vec<_> = records.iter().map(|r| r.iter().map(write).collect::<Vec<_>>().join(",")).collect();
        let text = lines.join(ending) + if ends { ending } else { "" };
        let found: Vec<_> = cut(&text, step).unwrap().into_iter().map(|(_, fields)| fields).collect();
        let expected: Vec<Vec<_>> =
            records.iter().map(|r| r.iter().map(|(value, _)| value.clone()).collect()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_text_is_answered(text in "[a,\"\n\r]{0,40}", step in 1usize..10) {
        let _ = cut(&text, step);
    }
}
