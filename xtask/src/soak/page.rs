//! Tables of figures on pages of the documentation.

use std::fs;

use anyhow::{Context, Result};

use crate::process::root;

const BEGIN: &str = "<!-- figures of cargo xtask soak -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Writes the table that `table` makes of the one that stands on a page.
pub(super) fn replace(page: &str, table: impl FnOnce(&str) -> String) -> Result<()> {
    let path = root().join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("read {page}"))?;
    let text = replaced(&text, table).with_context(|| format!("{page} has no table of figures"))?;
    fs::write(&path, text).with_context(|| format!("write {page}"))?;
    println!("the figures stand in {page}");
    Ok(())
}

fn replaced(page: &str, table: impl FnOnce(&str) -> String) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", table(old.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_old_one() {
        let page = format!("# Page\n{BEGIN}\nold\n\n{END}more\n");
        let changed = replaced(&page, |old| format!("| {old} and new |\n")).unwrap();
        assert_eq!(changed, format!("# Page\n{BEGIN}\n| old and new |\n\n{END}more\n"));
        assert_eq!(replaced("# Page", str::to_owned), None);
    }
}
