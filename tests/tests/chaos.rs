//! `cargo xtask chaos` can fail: with members that do not wait for their disks it finds what power cuts have lost.

use std::process::{Command, Output};

use quorate_tests::disk::Disk;
use quorate_tests::server::Server;
use quorate_tests::tools::{scratch_dir, skip};

/// Runs the program that `cargo xtask chaos` runs. `None`, with the reason printed, where there can be no disks.
fn chaos(args: &[&str]) -> Option<Output> {
    let scratch = scratch_dir().expect("a directory");
    if let Err(error) = Disk::permitted(scratch.path()) {
        skip(&format!("loop mounts of ext4 (root, Debian e2fsprogs, python3): {error:#}"));
        return None;
    }
    if !Server::find().expect("a server binary").is_quorate() {
        skip("Quorate as the server");
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-chaos")).args(args).output().expect("it runs");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(output)
}

/// What a failure has kept, which nobody will look at here.
fn clean_up(said: &str) {
    let kept =
        said.split("kept in ").nth(1).and_then(|rest| rest.split(['"', ':', '\n']).find(|part| part.starts_with('/')));
    if let Some(kept) = kept {
        let _ = std::fs::remove_dir_all(kept);
    }
}

#[test]
fn the_count_of_power_cuts_finds_acknowledged_writes_that_were_lost() {
    let Some(output) = chaos(&["--count-power-cuts", "5", "--unsafe-no-fsync"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    clean_up(&said);
    assert!(!output.status.success(), "it found nothing");
    // What is left of a log may also be such that it does not open: then the member does not come back, and all is lost.
    let found = ["acknowledged writes are lost", "m0 after 20s"].iter().any(|words| said.contains(words));
    assert!(found, "it failed for another reason");
}
