//! The index against a naive model of the same rows.

use proptest::prelude::*;

use super::*;

fn index(blocks: &[Vec<(usize, i64)>]) -> (Index, Vec<usize>) {
    let mut builder = IndexBuilder::default();
    let mut counted = Vec::new();
    for (at, rows) in blocks.iter().enumerate() {
        for (symbol, time) in rows {
            let id = builder.id(&symbol.to_string()).unwrap();
            builder.row(id, *time);
        }
        if builder.end_block() {
            counted.push(at);
        }
    }
    (builder.finish(), counted)
}

#[test]
fn spacing_is_exact_inside_blocks_and_across_their_borders() {
    let gaps = |blocks: &[Vec<(usize, i64)>]| {
        let index = index(blocks).0;
        let gaps = &index.series("0").unwrap().gaps;
        (gaps.most_frequent(), gaps.total())
    };
    assert_eq!(gaps(&[vec![(0, 300)]]), (None, 0));
    assert_eq!(gaps(&[vec![(0, 300), (0, 300)]]), (None, 0));
    assert_eq!(gaps(&[vec![(0, 900), (0, 300), (0, 600)]]), (Some((300, 2)), 2));
    assert_eq!(gaps(&[vec![(0, 0), (0, 300)], vec![(0, 360), (0, 420)]]), (Some((60, 2)), 3));
    assert_eq!(gaps(&[vec![(0, 420), (0, 360)], vec![(0, 300), (0, 0)]]), (Some((60, 2)), 3));
    // Other series between do not count, nor does their distance.
    assert_eq!(gaps(&[vec![(0, 0), (1, 1), (0, 300)], vec![(1, 2)], vec![(0, 600)]]), (Some((300, 2)), 2));
}

#[test]
fn a_symbol_column_of_too_many_symbols_is_refused() {
    let mut builder = IndexBuilder::default();
    for symbol in 0..MAX_SERIES {
        builder.id(&symbol.to_string()).unwrap();
    }
    assert_eq!(builder.id("7").unwrap(), 7);
    assert_eq!(
        builder.id("one more").unwrap_err().to_string(),
        "the symbol column holds more than 65536 different symbols"
    );
}

proptest! {
    #[test]
    fn blocks_and_series_agree_with_a_model(
        blocks in prop::collection::vec(prop::collection::vec((0usize..130, 0i64..1_000), 0..30), 0..12),
        start in 0i64..1_000,
        length in 1i64..400,
    ) {
        let (index, counted) = index(&blocks);
        prop_assert_eq!(&counted, &(0..blocks.len()).filter(|at| !blocks[*at].is_empty()).collect::<Vec<_>>());
        let all = || blocks.iter().flatten();
        let bounds = all().map(|(_, time)| *time).min().zip(all().map(|(_, time)| *time).max());
        prop_assert_eq!(index.bounds(), bounds);
        let span = start..start + length;
        for symbol in 0..130 {
            let mut times: Vec<_> = all().filter(|(other, _)| *other == symbol).map(|(_, time)| *time).collect();
            times.sort_unstable();
            times.dedup();
            let found = index.blocks(&symbol.to_string(), &span);
            // Every block with a row that is wanted is found; blocks without the series are not.
            for (block, at) in counted.iter().enumerate() {
                let mut rows = blocks[*at].iter().filter(|(other, _)| *other == symbol).peekable();
                let has_series = rows.peek().is_some();
                if rows.any(|(_, time)| span.contains(time)) {
                    prop_assert!(found.contains(&block));
                } else if !has_series {
                    prop_assert!(!found.contains(&block));
                }
            }
            match index.series(&symbol.to_string()) {
                None => prop_assert!(times.is_empty()),
                Some(series) => {
                    prop_assert_eq!((series.first, series.last), (times[0], times[times.len() - 1]));
                    let exact: Vec<_> = times.windows(2).map(|pair| pair[1].abs_diff(pair[0])).collect();
                    let (seen, least) = (series.gaps.most_frequent(), exact.iter().min());
                    prop_assert!(seen.is_none_or(|(gap, _)| Some(&gap) >= least));
                    if blocks.len() == 1 {
                        let total = exact.len() as u64;
                        prop_assert!(series.gaps.total() <= total);
                        let most = seen.map_or(0, |(gap, _)| exact.iter().filter(|own| **own == gap).count());
                        prop_assert!(exact.iter().all(|gap| exact.iter().filter(|own| *own == gap).count() <= most));
                    }
                }
            }
        }
    }
}
