//! A server whose disk is full: a small one that is mounted where this user may.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use qmtl_history_api::{ErrorKind, HistoryBackend, HistoryBackendExt, ReadRequest, TimeRange, WriteRequest};
use qmtl_history_testkit::fixtures::{bar, bars, key, span};

use crate::server::{Own, connect};

/// A small disk that is unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where this user may not mount one.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        mount.output().ok()?.status.success().then(|| Self(at.to_owned()))
    }

    /// Takes what is left of it.
    fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: the server may need a moment to let go of its files.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_lost_after_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path(), "700m") else {
        println!("left out: no tmpfs can be mounted here, so no disk is full");
        return;
    };
    let Some(server) = Own::start_in(folder) else { return };
    let (backend, key) = (connect(&server.dsn()).await, key("BTC", "1s"));
    let write = async |part: u32| {
        let rows = bars(&key, bar(&key, part * 20_000), 20_000);
        backend.write_rows(&WriteRequest::new(key.clone()), rows).await
    };
    write(0).await.unwrap();
    disk.fill();
    let mut part = 1;
    let error = loop {
        match write(part).await {
            // What the server has mapped already takes some rows more.
            Ok(_) => part += 1,
            Err(error) => break error,
        }
        assert!(part < 500, "the disk takes everything");
    };
    println!("full after {part} batches: {}", error.chain());
    assert!([ErrorKind::Storage, ErrorKind::Unavailable].contains(&error.kind()), "{error:?}");
    // What was stored stays readable.
    let stored = span(&key, 0, part * 20_000);
    let read = backend.read_all(&ReadRequest::new(key.clone(), stored)).await.unwrap();
    assert_eq!(read, bars(&key, bar(&key, 0), usize::try_from(part * 20_000).unwrap()));
    disk.free();
    if error.kind() == ErrorKind::Storage {
        assert!(error.chain().contains("RESUME WAL") || error.chain().contains("free space"), "{error:?}");
        server.resume(&backend.table_of(&key.node_id)).await;
    }
    write(part).await.unwrap();
    let whole = span(&key, 0, (part + 1) * 20_000);
    assert_eq!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present(), &whole.into());
    drop(server);
}
