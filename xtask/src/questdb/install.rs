//! What a server needs: a Java and the jar, which are installed where that can be done.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::VERSION;
use crate::process::{self, answers, apt};

/// The oldest Java that runs the server.
const JAVA: u32 = 17;

/// The server's jar from the local Maven repository, fetched when it is not there.
pub(super) fn jar() -> Result<PathBuf> {
    if java_version().is_none_or(|version| version < JAVA) {
        apt("default-jre-headless", &format!("Java {JAVA} or later"))?;
    }
    let jar = repository()?.join(format!("org/questdb/questdb/{VERSION}/questdb-{VERSION}.jar"));
    if !jar.exists() {
        if !answers("mvn", "-version") {
            apt("maven", "Maven")?;
        }
        println!("fetching QuestDB {VERSION} from Maven Central …");
        let artifact = format!("-Dartifact=org.questdb:questdb:{VERSION}");
        process::run(Command::new("mvn").args([
            "-q",
            "-B",
            "dependency:get",
            &artifact,
            "-Dtransitive=false",
        ]))?;
    }
    if jar.exists() { Ok(jar) } else { bail!("Maven put no jar at {}", jar.display()) }
}

/// Maven's local repository, where a user has not moved it.
fn repository() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("MAVEN_REPO_LOCAL") {
        return Ok(PathBuf::from(folder));
    }
    let home = env::var_os("HOME").context("HOME is not set, so Maven's local repository is unknown")?;
    Ok(PathBuf::from(home).join(".m2/repository"))
}

fn java_version() -> Option<u32> {
    let output = Command::new("java").arg("-version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stderr))
}

/// The major version in what `java -version` prints.
fn major(text: &str) -> Option<u32> {
    text.split('"').nth(1)?.split(['.', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read() {
        assert_eq!(major("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(major("openjdk version \"25-ea\" 2025-09-16"), Some(25));
        assert_eq!(major("java version \"1.8.0_402\""), Some(1));
        assert_eq!(major("command not found"), None);
    }
}
