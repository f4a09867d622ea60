//! Where things are printed: results on stdout, the rest on stderr, no colour into pipes.

use std::io::Read;
use std::process::Stdio;

use super::{CANDLES, Run, SPAN, Scene, minutes, program};

fn fill(scene: &Scene, more: &[&str]) -> Run {
    let source = format!("file:{CANDLES}");
    let words = ["backfill", "--node", "ADABTC", "--interval", "5m", "--source", &source];
    scene.run(&[&words[..], &SPAN[..], more].concat())
}

#[test]
fn progress_goes_to_stderr_and_quiet_drops_it() {
    let scene = Scene::new();
    let run = fill(&scene, &[]);
    assert!(run.stderr.contains("ADABTC@5m: 5,760 bars missing in"), "{run:?}");
    assert!(run.stderr.contains("ADABTC@5m: 100%  5,760 of 5,760 bars"), "{run:?}");
    assert!(run.stdout.contains("stored       5,720 rows in"), "{run:?}");
    assert!(run.stdout.contains("known empty  40 bars in 5 ranges"), "{run:?}");
    let again = fill(&scene, &[]);
    assert!(again.stdout.contains("stored       0 rows, 0 requests: nothing was asked for"), "{again:?}");
    assert_eq!(fill(&Scene::new(), &["--quiet"]).stderr, "");
}

#[test]
fn bars_that_have_not_closed_are_left_out_and_told() {
    let scene = Scene::new();
    let source = scene.file("x.csv", "ts,close\n1704067200,1\n1704067260,2\n");
    let fill = [
        "plan",
        "--node",
        "x",
        "--interval",
        "1m",
        "--source",
        &source,
        "--start",
        "1704067200",
        "--end",
        "9000-01-01",
        "--yes",
    ];
    let run = scene.run(&fill);
    assert!(run.code == Some(0) && run.stderr.contains("bars have not closed yet and left out"), "{run:?}");
}

#[test]
fn logs_are_lines_of_the_form_that_was_asked_for() {
    let run = fill(&Scene::new(), &["-v", "--log-format", "event", "--quiet"]);
    assert!(run.stderr.lines().any(|line| line.starts_with("seamless.backfill.succeeded {\"")), "{run:?}");
    let run = fill(&Scene::new(), &["-v", "--log-format", "json", "--quiet", "--json"]);
    assert!(
        run.stderr.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{run:?}"
    );
    assert_eq!(run.object()["rows_written"], 5_720);
}

#[test]
fn colour_only_where_it_is_wanted() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let plain = scene.run(&["coverage", "--strip"]).stdout;
    assert!(plain.is_ascii() && plain.contains("2018-01          "), "{plain}");
    let rich = scene
        .command(&["coverage", "--strip", "--color", "always"])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(String::from_utf8(rich.stdout).unwrap().contains("\u{1b}[38;5;41m█"));
    let poor =
        scene.command(&["coverage", "--strip", "--color", "always"]).env("LC_ALL", "C").output().unwrap();
    assert!(!String::from_utf8(poor.stdout).unwrap().contains('█'));
}

#[test]
fn a_reader_that_goes_away_ends_an_export_quietly() {
    let scene = Scene::new();
    let source = scene.file("minutes.csv", &minutes(20_000));
    let series = ["--node", "m", "--interval", "1m"];
    let fill =
        [&["backfill"], &series[..], &["--source", &source, "--start", "1704067200", "--end", "1705267200"]]
            .concat();
    assert_eq!(scene.run(&fill).code, Some(0));
    let mut export = scene
        .command(&[&["export"], &series[..]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 10];
    export.stdout.take().unwrap().read_exact(&mut head).unwrap();
    let run = Run::of(export.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn the_exit_code_tells_of_findings_though_nobody_reads_them() {
    let scene = Scene::new();
    let source = scene.file("crooked.csv", "ts,high,low\n1704067200,1,2\n1704067260,2,1\n");
    let fill = ["backfill", "--source", &source, "--node", "x", "--interval", "1m", "--range"];
    let unread = |words: &[&str]| {
        let mut run = scene.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(run.stdout.take());
        run.wait().unwrap().code()
    };
    assert_eq!(unread(&[&fill[..], &["1704067200..=1704067320"]].concat()), Some(3), "a bar is missing");
    assert_eq!(unread(&["verify"]), Some(1));
    assert_eq!(unread(&["verify", "--json"]), Some(1));
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let export = ["export", "--node", "ADABTC", "--interval", "5m", "--out", "x.csv", "--columns", "closing"];
    assert_eq!(scene.run(&export).code, Some(1));
    let left: Vec<_> =
        std::fs::read_dir(scene.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store"]);
}

#[test]
fn what_cannot_be_printed_is_an_error_and_what_was_stored_is_told() {
    let scene = Scene::new();
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let source = format!("file:{CANDLES}");
    let words = ["backfill", "--node", "ADABTC", "--interval", "5m", "--source", &source];
    let mut command = scene.command(&[&words[..], &SPAN[..]].concat());
    let run = Run::of(command.stdout(full()).output().unwrap());
    run.fails_with(1, "hint: 5,720 rows stored all the same");
    let help = program().arg("--help").stdout(full()).status().unwrap();
    assert_eq!(help.code(), Some(1));
    // A filter that is none is not repeated, and nothing depends on where its warning goes.
    let mut filter = scene.command(&["ls"]);
    let run = Run::of(filter.env("RUST_LOG", "canary=[[").output().unwrap());
    assert!(run.code == Some(0) && run.stderr.starts_with("warning: RUST_LOG is no filter"), "{run:?}");
    assert!(!run.stderr.contains("canary"), "{run:?}");
    assert_eq!(filter.stdout(Stdio::null()).stderr(full()).status().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn pipes_that_nobody_reads_or_writes_are_told_of() {
    use std::io::{BufRead, BufReader};

    let scene = Scene::new();
    fill(&scene, &[]);
    assert!(std::process::Command::new("mkfifo").arg(scene.path("pipe")).status().unwrap().success());
    for (words, told) in [
        (&["plan", "--nodes", "pipe"][..], "waiting: the list pipe has not been read to its end yet"),
        (&[&EXPORT[..], &["--out", "pipe"]].concat(), "waiting: nobody reads pipe yet"),
    ] {
        let mut child = scene.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let line = BufReader::new(child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
        assert_eq!(line, format!("{told}; Ctrl-C stops"));
        let run = super::interrupt(child);
        assert!(run.code == Some(130) && run.stderr.is_empty(), "{run:?}");
    }
    let words = ["backfill", "--nodes", "pipe", "--json", "--last", "5d"];
    let mut child = scene.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("waiting: the list pipe"));
    let rest = std::thread::spawn(move || lines.count());
    let run = super::interrupt(child);
    rest.join().unwrap();
    assert_eq!((run.code, &run.object()["error"]["kind"]), (Some(130), &"cancelled".into()));
}

#[test]
fn a_list_in_a_pipe_is_read_once() {
    let scene = Scene::new();
    let list =
        format!("[[series]]\nnode = 'ADABTC'\ninterval = '5m'\nsource = {:?}\n", format!("file:{CANDLES}"));
    let words = ["warmup", "--nodes", "-", "--period", "5", "--as-of", "2018-01-20"];
    let mut child = scene
        .command(&words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert!(run.code == Some(0) && run.stdout.contains("5 closed bars"), "{run:?}");
}

#[test]
fn an_export_among_the_stores_own_files_is_refused_and_leaves_them_as_they_are() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let files = scene.run(&["files", "--node", "ADABTC", "--interval", "5m"]);
    let data = files.stdout.lines().next().unwrap();
    let folder = std::path::Path::new(data).parent().unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(data, scene.path("link.parquet")).unwrap();
    let beside = folder.join("x.csv").display().to_string();
    let dots = format!("{}/../{}/x.csv", scene.store(), "store");
    let name = folder.join("_series.json").display().to_string();
    let by_process = format!("/proc/self/root{}", std::path::absolute(data).unwrap().display());
    for out in
        [data, &beside, &dots, "store/x.csv", "link.parquet", &by_process, &format!("/proc/self/root{name}")]
    {
        let export = ["export", "--node", "ADABTC", "--interval", "5m", "--format", "csv", "--out", out];
        let run = scene.run(&export);
        run.fails_with(2, "the export would lie among a store's own files; write it elsewhere");
    }
    // Nor among those of another one, nor through an open file.
    let other = Scene::new();
    fill(&other, &[]);
    let run = other.run(&["export", "--node", "ADABTC", "--interval", "5m", "--out", data]);
    run.fails_with(2, "the export would lie among a store's own files; write it elsewhere");
    #[cfg(target_os = "linux")]
    {
        let open = std::fs::OpenOptions::new().append(true).open(data).unwrap();
        let mut export = scene.command(&[&EXPORT[..], &["--out", "/dev/fd/0"]].concat());
        let run = Run::of(export.stdin(open).output().unwrap());
        run.fails_with(2, "the export would lie among a store's own files; write it elsewhere");
    }
    assert_eq!(scene.run(&["verify"]).code, Some(0));
    assert_eq!(scene.run(&EXPORT).stdout.lines().count(), 5_721);
}

#[test]
fn help_and_completions() {
    let run = |words: &[&str]| Run::of(program().args(words).output().unwrap());
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("qmtl-history demo"), "{help:?}");
    let commands = ["plan", "backfill", "ls", "coverage", "files", "export", "verify", "demo", "completions"];
    for command in commands {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}");
        assert_eq!(run(&[command, "--help"]).code, Some(0));
    }
    assert!(run(&["backfill", "--help"]).stdout.contains("ends are exclusive"));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(run(&["completions", shell]).stdout.contains("backfill"), "{shell}");
    }
    assert_eq!(run(&[]).code, Some(2));
}

/// The export of the bundled candles.
const EXPORT: [&str; 7] = ["export", "--node", "ADABTC", "--interval", "5m", "--format", "csv"];

#[cfg(unix)]
#[test]
fn an_export_goes_through_what_is_no_regular_file_and_follows_links() {
    use std::os::unix::fs::{FileTypeExt, symlink};

    let scene = Scene::new();
    fill(&scene, &[]);
    let whole = scene.run(&EXPORT).stdout;
    let export = |out: &str| scene.run(&[&EXPORT[..], &["--out", out]].concat());

    // A link stays one, whether what it names is there already or not.
    for (link, target) in [("link.csv", "real.csv"), ("dangling.csv", "new.csv")] {
        if link == "link.csv" {
            std::fs::write(scene.path(target), "old").unwrap();
        }
        symlink(target, scene.path(link)).unwrap();
        assert_eq!(export(link).code, Some(0));
        assert!(std::fs::symlink_metadata(scene.path(link)).unwrap().is_symlink());
        assert_eq!(super::read(scene.path(target)), whole);
    }

    let fifo = scene.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || super::read(fifo)
    });
    assert_eq!(export("fifo").code, Some(0));
    assert_eq!(reader.join().unwrap(), whole);
    assert!(std::fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());

    // /dev/full takes nothing, and is there afterwards.
    let run = export("/dev/full");
    run.fails_with(1, "cannot write");
    assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    std::fs::create_dir(scene.path("folder")).unwrap();
    export("folder").fails_with(2, "this is a folder");
    // What the shell opened is written to, and what stands in it stays.
    let redirected = scene.path("redirected.csv");
    for (sign, expected) in [(">", whole.clone()), (">>", whole.repeat(2))] {
        let mut shell = std::process::Command::new("sh");
        let script = format!("\"$0\" \"$@\" {sign} redirected.csv");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_qmtl-history")]);
        shell.args(EXPORT).args(["--out", "/dev/stdout", "--store", &scene.store()]);
        assert!(shell.current_dir(scene.0.path()).status().unwrap().success());
        assert!(super::read(&redirected) == expected, "{sign}");
    }
    // A file is replaced whole wherever it lies.
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        let file = folder.path().join("x.csv");
        std::fs::write(&file, whole.repeat(2)).unwrap();
        assert_eq!(export(file.to_str().unwrap()).code, Some(0));
        assert!(super::read(&file) == whole);
    }
}

#[cfg(unix)]
#[test]
fn an_export_whose_named_reader_leaves_early_has_failed() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let fifo = scene.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for format in ["csv", "parquet", "arrow"] {
        // More than a pipe holds, of which nothing is read.
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || drop(std::fs::File::open(fifo).unwrap())
        });
        let export = ["export", "--node", "ADABTC", "--interval", "5m", "--out", "fifo", "--json"];
        let run = scene.run(&[&export[..], &["--format", format]].concat());
        reader.join().unwrap();
        run.fails_with(1, "cannot write the export (out: fifo)");
        assert_eq!(run.object()["error"]["exit_code"], 1, "{run:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_export_to_links_without_an_end_is_an_error_and_leaves_them() {
    use std::os::unix::fs::symlink;

    let scene = Scene::new();
    fill(&scene, &[]);
    let mut links =
        vec![("la".to_owned(), "lb".to_owned()), ("lb".into(), "la".into()), ("own".into(), "own".into())];
    links.extend((0..50).map(|at| (format!("chain{at}"), format!("chain{}", at + 1))));
    for (link, target) in &links {
        symlink(target, scene.path(link)).unwrap();
    }
    for out in ["la", "own", "chain0"] {
        let run = scene.run(&[&EXPORT[..], &["--out", out]].concat());
        run.fails_with(1, "too many levels of symbolic links");
    }
    for (link, target) in &links {
        assert_eq!(std::fs::read_link(scene.path(link)).unwrap(), std::path::Path::new(target));
    }
    assert!(!scene.path("chain50").exists());
    // As many as the system follows.
    assert_eq!(scene.run(&[&EXPORT[..], &["--out", "chain10"]].concat()).code, Some(0));
    assert_eq!(super::read(scene.path("chain50")).lines().count(), 5_721);
}

#[cfg(unix)]
#[test]
fn a_result_without_a_stdout_is_an_error() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let without = |words: &[&str], closed: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {closed}"), env!("CARGO_BIN_EXE_qmtl-history")]);
        Run::of(
            shell.args(words).args(["--store", &scene.store()]).current_dir(scene.0.path()).output().unwrap(),
        )
    };
    let by_name = [&EXPORT[..], &["--out", "/dev/stdout"]].concat();
    let asked: [&[&str]; 4] = [&["--version"], &["--help"], &["ls", "-h"], &["completions", "bash"]];
    for words in [&EXPORT[..], &by_name, &["ls"], &["coverage", "--json"]].into_iter().chain(asked) {
        without(words, ">&-").fails_with(1, "stdout is closed");
        assert_eq!(without(words, ">/dev/null").code, Some(0), "who wants to throw it away may");
    }
    assert_eq!(without(&[&EXPORT[..], &["--out", "x.csv"]].concat(), ">&-").code, Some(0));
}

/// Supervisors start services so, with /dev/null for reading and writing: what a fill did stands in the store.
#[cfg(unix)]
#[test]
fn a_fill_needs_no_stdout() {
    let scene = Scene::new();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let source = format!("file:{CANDLES}");
    let words = ["backfill", "--node", "ADABTC", "--interval", "5m", "--source", &source];
    assert_eq!(
        scene.command(&[&words[..], &SPAN[..]].concat()).stdout(null).output().unwrap().status.code(),
        Some(0)
    );
    assert_eq!(
        scene.json(&["coverage", "--node", "ADABTC", "--interval", "5m"])["missing"].as_array().map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_usage_message_repeats_no_argument_of_any_length() {
    let scene = Scene::new();
    let long = "x".repeat(100_000);
    let many: Vec<&str> = std::iter::repeat_n(long.as_str(), 10).collect();
    for words in [&[long.as_str()][..], &["ls", &long], &["export", "--format", &long], &many] {
        let run = scene.run(words);
        run.fails_with(2, " bytes left out ");
        assert!(run.stderr.len() < 10_000, "{}", run.stderr.len());
        let json = scene.run(&[words, &["--json"]].concat());
        assert!(json.code == Some(2) && json.stdout.len() < 10_000 && json.stderr.len() < 10_000);
    }
}

#[cfg(unix)]
#[test]
fn a_command_whose_reader_is_stuck_ends_when_it_is_asked_to() {
    let scene = Scene::new();
    fill(&scene, &[]);
    // Nobody reads, and 5,720 lines are more than a pipe holds.
    let mut child = scene.command(&EXPORT).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stuck = child.stdout.take().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it waits for its reader");
    assert_eq!(super::interrupt(child).code, Some(130));
    drop(stuck);
}
