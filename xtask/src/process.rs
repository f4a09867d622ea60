//! Running other programs, cargo above all, in the root of the repository.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the repository that this program was started in.
pub(crate) fn root() -> PathBuf {
    let here =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    Path::new(&here).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The directory that cargo builds into.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `cargo` with these arguments, in the root.
pub(crate) fn cargo<A: AsRef<str>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for arg in args {
        command.arg(arg.as_ref());
    }
    command
}

/// `cargo` with a subcommand, for a project outside the workspace: with the workspace's target directory and profile, so
/// that what is built already is not built again.
pub(crate) fn cargo_of_example(word: &str, manifest: &Path) -> Command {
    let mut command = cargo([word, "--manifest-path"]);
    command.arg(manifest).arg("--target-dir").arg(target());
    command.args(["--config", "profile.dev.package.\"*\".opt-level=1"]);
    command.args(["--config", "profile.dev.package.\"*\".debug=false"]);
    command
}

/// The command as it can be typed.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, quoted(value?.to_str()?))))
        .collect();
    let program = Path::new(command.get_program()).file_stem().unwrap_or(command.get_program());
    words.push(program.to_string_lossy().into_owned());
    words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// Runs the command with its output passed through; an error names the command to run by hand.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("run `{}`", shown(command));
    }
    Ok(())
}

/// What the command prints on stdout; its stderr is part of the error when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("run `{}`\n{}", shown(command), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` prints no text", shown(command)))
}

/// Whether a program is there and takes the argument.
pub(crate) fn answers(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// Installs a package of Debian where this is Debian and the user may; says what to do elsewhere.
pub(crate) fn apt(package: &str, what: &str) -> Result<()> {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !answers("apt-get", "--version") {
        bail!("{what} is missing: install it (on Debian `apt-get install {package}`)");
    }
    println!("installing {what} …");
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends", package]);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    if install.output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    // The lists of packages may be missing or old.
    output(Command::new("apt-get").args(["update", "--quiet"]))?;
    output(&mut install).map(drop)
}

/// Runs the command with its output passed through, and shows each line of stdout to `line`.
/// True when it succeeded.
pub(crate) fn watch(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("start `{}`", shown(command)))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    for bytes in BufReader::new(stdout).split(b'\n') {
        let bytes = bytes?;
        let text = String::from_utf8_lossy(&bytes);
        writeln!(std::io::stdout(), "{text}")?;
        line(&text);
    }
    Ok(child.wait()?.success())
}

/// True when the command ends well before the deadline; it is silent, and killed when it is late.
pub(crate) fn succeeds_within(command: &mut Command, deadline: Duration) -> Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if started.elapsed() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_can_be_typed() {
        let mut command = Command::new("/toolchain/bin/cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--config", "profile.dev.debug=\"x\""]);
        assert_eq!(
            shown(&command),
            "RUSTDOCFLAGS='-D warnings' cargo doc --config 'profile.dev.debug=\"x\"'"
        );
    }

    #[test]
    fn output_is_watched_line_by_line() {
        let mut lines = Vec::new();
        let succeeded = watch(Command::new("printf").arg("a\\nb\\n"), |line| lines.push(line.to_owned()));
        assert!(succeeded.unwrap());
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn a_late_command_is_killed() {
        assert!(!succeeds_within(Command::new("sleep").arg("600"), Duration::ZERO).unwrap());
        assert!(succeeds_within(&mut Command::new("true"), Duration::from_secs(600)).unwrap());
    }
}
