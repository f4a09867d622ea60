//! Who may ask.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use blake3::Hash;
use qmtl_history_api::{Error, Result};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The fewest bytes of a token: what is shorter can be guessed.
const SHORTEST: usize = 16;

/// The bearer tokens of a file: one a line, several while they are being changed. A file that was changed is read
/// again, within a second; one that cannot be read, or holds no token, changes nothing.
///
/// Tokens are kept as hashes and compared in constant time.
pub struct BearerTokens {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    tokens: Vec<Hash>,
    /// What tells one content of the file from another.
    stamp: Option<Stamp>,
    looked_at: Instant,
}

impl BearerTokens {
    /// Reads the tokens of a file; empty lines and those that begin with `#` are left out.
    ///
    /// `InvalidInput` for a file that cannot be read, has no token, or one of fewer than 16 bytes.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let stamp = stamp(&path);
        let tokens = read(&path)?;
        Ok(Self { path, known: Mutex::new(Known { tokens, stamp, looked_at: Instant::now() }) })
    }

    /// The token that a client shows: the first one of such a file, of any length.
    ///
    /// `InvalidInput` for a file that cannot be read or has no token.
    pub fn first_of(path: &Path) -> Result<String> {
        Ok(lines(path)?.swap_remove(0))
    }

    /// Whether this is one of the tokens.
    #[must_use]
    pub fn admit(&self, token: &str) -> bool {
        let shown = blake3::hash(token.as_bytes());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked_at.elapsed() >= LOOK_EVERY {
            known.looked_at = Instant::now();
            let changed = stamp(&self.path);
            if changed != known.stamp {
                match read(&self.path) {
                    Ok(tokens) => {
                        tracing::info!(file = %self.path.display(), tokens = tokens.len(), "the bearer tokens were read again");
                        known.tokens = tokens;
                    }
                    Err(error) => {
                        tracing::error!(error = error.chain(), "the bearer tokens stay as they were")
                    }
                }
                known.stamp = changed;
            }
        }
        // All are compared, whichever fits.
        known.tokens.iter().fold(false, |admitted, own| admitted | (*own == shown))
    }
}

/// Shows the file and no token.
impl fmt::Debug for BearerTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerTokens").field("path", &self.path).finish_non_exhaustive()
    }
}

/// When a file was changed, its length, and, as a copy may keep both, which file it is and when it came there.
type Stamp = (SystemTime, u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    let (file, secs, nanos) = {
        use std::os::unix::fs::MetadataExt;
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    #[cfg(not(unix))]
    let (file, secs, nanos) = (0, 0, 0);
    Some((metadata.modified().ok()?, metadata.len(), file, secs, nanos))
}

fn read(path: &Path) -> Result<Vec<Hash>> {
    let tokens = lines(path)?;
    if tokens.iter().any(|token| token.len() < SHORTEST) {
        let message = "a bearer token has at least 16 characters: `openssl rand -hex 32` makes one";
        return Err(Error::invalid(message).with("file", path.display()));
    }
    Ok(tokens.iter().map(|token| blake3::hash(token.as_bytes())).collect())
}

/// The tokens of a file, one at least.
fn lines(path: &Path) -> Result<Vec<String>> {
    let error = |message: &str| Error::invalid(message).with("file", path.display());
    let text =
        fs::read_to_string(path).map_err(|e| error("cannot read the file of bearer tokens").caused_by(e))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<_> = lines.map(str::to_owned).collect();
    if tokens.is_empty() {
        return Err(error("the file has no bearer token: put one in it, alone on a line"));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_changed_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let write = |text: &str, at: u64| {
            fs::write(&path, text).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at)).unwrap();
        };
        write("# ours\n\n old-token-of-16-characters \n", 1);
        let tokens = BearerTokens::from_file(&path).unwrap();
        let look = |token: &str| {
            tokens.known.lock().unwrap().looked_at -= LOOK_EVERY;
            tokens.admit(token)
        };
        let (old, new) = ("old-token-of-16-characters", "new-token-of-16-characters");
        assert_eq!([look(old), look(new), look("old-token"), look("")], [true, false, false, false]);
        write(&format!("{old}\n{new}\n"), 2);
        assert_eq!(BearerTokens::first_of(&path).unwrap(), old);
        assert_eq!([look(old), look(new)], [true, true]);
        write(new, 3);
        assert_eq!([look(old), look(new)], [false, true]);
        // A copy keeps the time of what it is made from.
        #[cfg(unix)]
        {
            let text = fs::read_to_string(&path).unwrap();
            write(&text.replace("new", "own"), 3);
            assert_eq!([look("own-token-of-16-characters"), look(new)], [true, false]);
            write(new, 3);
            assert!(look(new));
        }
        for broken in ["", "short"] {
            write(broken, 4);
            assert!(look(new), "a broken file changes nothing");
            assert_eq!(
                BearerTokens::first_of(&path).ok().as_deref(),
                Some(broken).filter(|text| !text.is_empty())
            );
            let error = BearerTokens::from_file(&path).unwrap_err().to_string();
            assert!(error.contains("tokens") && !error.contains("short"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(look(new));
        assert!(!format!("{tokens:?}").contains("token-of"));
    }
}
