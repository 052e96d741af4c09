//! Deliberate bugs and rare paths, in a program that was built to have them.

use anyhow::Result;

/// What `cargo xtask sim` needs to be told to run this program: a seed has another history in the one with rare paths.
#[cfg(feature = "sabotage")]
pub const BUILD: &str = " --rare";

/// Nothing.
#[cfg(not(feature = "sabotage"))]
pub const BUILD: &str = "";

/// Takes rare paths by `seed`, and has the bug of this name.
#[cfg(feature = "sabotage")]
pub fn arm(seed: u64, bug: Option<&str>) -> Result<()> {
    use anyhow::Context;
    quorate_sabotage::seed_rare_paths(quorate_sim::determinism::mix(seed ^ 0x7261_7265));
    if let Some(name) = bug {
        quorate_sabotage::choose(
            quorate_sabotage::Bug::by_name(name).with_context(|| format!("there is no bug {name}"))?,
        );
    }
    Ok(())
}

/// Whether only mode `full` runs the code that has this bug.
#[cfg(feature = "sabotage")]
pub fn needs_full(bug: &str) -> bool {
    quorate_sabotage::Bug::by_name(bug).is_some_and(|bug| matches!(bug.area(), "front" | "client"))
}

/// Without the feature there is none.
#[cfg(not(feature = "sabotage"))]
pub fn needs_full(_bug: &str) -> bool {
    false
}

/// Prints the bugs: name, part of the system, what is wrong, in which mode it is looked for, with tabs between.
#[cfg(feature = "sabotage")]
pub fn list() {
    for bug in quorate_sabotage::Bug::ALL {
        let mode = if needs_full(bug.name()) { "full" } else { "fast" };
        println!("{}\t{}\t{}\t{mode}", bug.name(), bug.area(), bug.what());
    }
}

/// Without the feature there are neither.
#[cfg(not(feature = "sabotage"))]
pub fn arm(_seed: u64, bug: Option<&str>) -> Result<()> {
    match bug {
        None => Ok(()),
        Some(name) => {
            anyhow::bail!("this program was built without bugs, so it cannot have {name}: use cargo xtask sabotage")
        }
    }
}

/// There are none.
#[cfg(not(feature = "sabotage"))]
pub fn list() {}
