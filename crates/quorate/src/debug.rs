//! `debug verify`: the files of a member that does not run.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use quorate_server::offline::{self, DiskFault, Verified};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::print::{DirectoryCheck, Reply};
use crate::progress::Progress;

/// Faults that are listed; all are counted.
const FAULTS_MAX: usize = 1000;

/// The commands for who looks into what is wrong.
#[derive(Debug, Clone, Subcommand)]
pub enum DebugCommand {
    /// Read everything in the data directory of a member that does not run, and report what is damaged
    #[command(
        after_help = "Reads the write-ahead log, every row of the storage engine and the index, with all checksums, and \
                            compares them. Changes nothing. Each fault is one line with its place; exits with 1 if there is \
                            one. A sled engine is copied to the directory for temporary files (TMPDIR) first.\n\nExamples:\n  \
                            quorate debug verify --data-dir /var/lib/quorate\n  quorate debug verify --data-dir \
                            /var/lib/quorate -w json"
    )]
    Verify(VerifyArgs),
}

/// Arguments of `debug verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Data directory of the member
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Directory of its write-ahead log, if not below --data-dir
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
}

impl DebugCommand {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Verify(args) => args.run(context),
        }
    }
}

impl VerifyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let faults = Arc::new(Mutex::new(Vec::new()));
        report_panics(context, &faults, self.data_dir.clone());
        let mut progress = Progress::new("verifying");
        let verified =
            offline::verify(self.data_dir, self.wal_dir, &mut |fault| note(&faults, fault), &mut |done, total| {
                progress.show(done, total)
            });
        drop(progress);
        let verified = verified.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let count = verified.faults;
        show(context, verified, &faults)?;
        if count == 0 { Ok(()) } else { Err(Failure::silent(Exit::Error)) }
    }
}

type Faults = Arc<Mutex<Vec<DiskFault>>>;

fn note(faults: &Faults, fault: DiskFault) {
    let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    if faults.len() < FAULTS_MAX {
        faults.push(fault);
    }
}

fn show(context: &Context, verified: Verified, faults: &Faults) -> Result<(), Failure> {
    let faults = faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
    context.show(Reply::DirectoryCheck(&DirectoryCheck { verified, faults }))
}

/// An engine may give up on a damaged file in the middle, and the program with it: then what was found so far is shown, and
/// that this was the end.
fn report_panics(context: &Context, faults: &Faults, data_dir: PathBuf) {
    let (context, faults) = (context.clone(), faults.clone());
    std::panic::set_hook(Box::new(move |panic| {
        note(
            &faults,
            DiskFault {
                file: data_dir.clone(),
                offset: None,
                row: None,
                key: None,
                revision: None,
                problem: format!("the storage engine cannot read its files: {panic}"),
            },
        );
        let count = faults.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        // There is nowhere else to tell it.
        let _ = show(&context, Verified { faults: count, ..Verified::default() }, &faults);
        std::process::exit(Exit::Error.code().into());
    }));
}
