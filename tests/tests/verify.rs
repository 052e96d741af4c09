//! `quorate debug verify`: finds a flipped bit in every kind of file of a member that does not run, says where, and changes
//! nothing. Quorate only: it is about its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::quorate::Quorate;

// What is damaged differs between the engines.
engine_tests! {
    a_flipped_bit_is_found_in_every_kind_of_file: redb sled;
}

/// Every file below `dir`, and what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = fs::read(&path).expect("a file");
            found.insert(path, content);
        }
    }
    found
}

/// Where to flip a bit in a file. Not every place means something: engines leave old pages behind.
fn places(name: &str, content: &[u8]) -> Vec<usize> {
    if name == "IDENTITY" {
        return vec![content.len() / 2];
    }
    if name.starts_with("wal") || name == "engine.redb" {
        // There, what was written is as it was written.
        let needle = b"value-077-";
        let found = content.windows(needle.len()).enumerate().filter(|(_, window)| window == needle);
        return found.map(|(at, _)| at).collect();
    }
    let written: Vec<usize> = content.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    if written.len() < 1000 { Vec::new() } else { written.into_iter().rev().step_by(977).take(8).collect() }
}

async fn a_flipped_bit_is_found_in_every_kind_of_file(engines: Engines) {
    let Some(quorate) = Quorate::find() else { return };
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1).on(engines)).await else { return };
    let client = cluster.client(0);
    for number in 0..200 {
        client.put(&format!("key{number:03}"), &format!("value-{number:03}-{}", "x".repeat(300))).await.expect("a put");
    }
    let dir = cluster.data_dir(0);
    let text = dir.to_str().expect("a path in UTF-8").to_owned();
    let verify = ["debug", "verify", "--data-dir", &text];
    let (code, said) = quorate.refused(&verify);
    assert!(code == Some(1) && said.contains("in use by another process"), "{said}");
    // Left alone, it brings the index to the engine.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.terminate(0).await;

    let before = files(&dir);
    let said = quorate.run(&verify).expect("nothing is wrong");
    assert!(said.contains("200 records, ") && said.ends_with("no fault was found\n"), "{said}");
    let json = quorate.run(&["debug", "verify", "--data-dir", &text, "-w", "json"]).expect("nothing is wrong");
    assert!(json.contains(r#""records":200,"#) && json.contains(r#""faultCount":0,"faults":[]"#), "{json}");
    assert!(files(&dir) == before, "nothing was changed");

    let mut hit = 0;
    for (path, content) in &before {
        let name = path.strip_prefix(&dir).expect("below it").display().to_string();
        let places = places(&name, content);
        let mut found = 0;
        for &at in &places {
            let mut flipped = content.clone();
            flipped[at] ^= 4;
            fs::write(path, &flipped).expect("a flip");
            let output = quorate.output(&["debug", "verify", "--data-dir", &text, "-w", "json"]);
            assert!(fs::read(path).expect("a file") == flipped, "nothing was changed");
            let json = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                continue;
            }
            found += 1;
            assert_eq!(output.status.code(), Some(1), "{name} at {at}: {output:?}");
            assert!(!json.contains(r#""faultCount":0"#), "{json}");
            let (is_log, is_redb) = (name.starts_with("wal"), name == "engine.redb");
            assert!(
                json.contains(if name.starts_with("engine") { "engine." } else { &name }),
                "{name} at {at}: {json}"
            );
            assert!(!is_log || json.contains(r#""offset":"#), "{json}");
            assert!(!is_redb || json.contains("record row") && json.contains(r#""revision":79"#), "{json}");
        }
        fs::write(path, content).expect("the flip is undone");
        assert!(places.is_empty() || found > 0, "{name} at {places:?}");
        hit += found;
    }
    assert!(hit >= 3, "identity, log and engine were hit: {hit}");
    quorate.run(&verify).expect("nothing is wrong again");
}
