//! `cargo xtask chaos` can fail, and fails for the right reason: with members that do not wait for their disks it names what power
//! cuts have lost, and with members that do it has nothing to say.

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
    let error = said.lines().find_map(|line| line.strip_prefix("error: "));
    let figures = error.and_then(|error| error.split_once(" acknowledged writes are lost: "));
    let (lost, all) =
        figures.and_then(|(figures, _)| figures.split_once(" of ")).expect("it failed for another reason");
    let (lost, all): (usize, usize) = (lost.parse().expect("a number"), all.parse().expect("a number"));
    assert!(0 < lost && lost <= all, "{lost} of {all}");
}

#[test]
fn the_count_of_power_cuts_finds_nothing_where_nothing_is_lost() {
    let Some(output) = chaos(&["--count-power-cuts", "3"]) else { return };
    clean_up(&String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "it failed");
    let said = String::from_utf8_lossy(&output.stdout);
    let (_, told) = said.split_once("3 power cuts of a single member on redb: ").expect("its figures");
    let (all, _) = told.split_once(" acknowledged writes, 0 lost;").expect("nothing is lost");
    assert!(all.parse::<usize>().expect("a number") >= 3, "each cut comes after an acknowledged write: {told}");
}
