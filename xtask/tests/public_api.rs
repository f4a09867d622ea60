//! What each library crate makes public is what its `public-api.txt` lists, so that a change of it is seen in review.
//!
//! `UPDATE_EXPECT=1 cargo test -p xtask --test public_api` writes the listings anew. Items that come of a blanket
//! implementation, an auto trait or a derive are left out.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;
use public_api::Builder;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The crates that have a library, by their folders.
fn libraries() -> Vec<String> {
    let folders = fs::read_dir(root().join("crates")).expect("the workspace has crates");
    let names = folders.map(|folder| folder.expect("a folder can be listed").file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| root().join("crates").join(name).join("src/lib.rs").is_file());
    names.sort();
    names
}

/// A rustdoc that takes the options of a nightly one. Only rustdoc is told: a build script that looks at the variable
/// would have every dependency built anew.
fn rustdoc() -> PathBuf {
    let wrapper = target().join("tmp").join("rustdoc-json");
    fs::create_dir_all(wrapper.parent().expect("it lies in a folder"))
        .expect("the target directory is writable");
    fs::write(&wrapper, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n")
        .expect("the target directory is writable");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .expect("a file of ours can be made a program");
    wrapper
}

#[test]
fn every_public_item_is_listed() {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // As the documentation is made, so that nothing but it is built.
    cargo.current_dir(root()).args([
        "doc",
        "--quiet",
        "--workspace",
        "--exclude",
        "xtask",
        "--no-deps",
        "--all-features",
    ]);
    cargo
        .env("RUSTDOC", rustdoc())
        .env("RUSTDOCFLAGS", "-Zunstable-options --output-format=json --cap-lints=allow");
    assert!(cargo.status().expect("cargo starts").success(), "the documentation can be made");
    for name in libraries() {
        let json = target().join("doc").join(format!("{}.json", name.replace('-', "_")));
        let api = Builder::from_rustdoc_json(&json)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(true)
            .build()
            .unwrap_or_else(|e| panic!("{}: {e}", json.display()));
        expect_file![root().join("crates").join(&name).join("public-api.txt")].assert_eq(&api.to_string());
    }
}
