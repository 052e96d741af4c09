//! The log of the process: JSON lines or text, on standard streams and in files.

use crate::StartError;
use crate::config::{LogFormat, LogOutput, ServerConfig};
use crate::rotate::RotatingFile;
use parking_lot::Mutex;
use std::io::{self, Write};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Starts the log. A process that has one already keeps it.
///
/// # Errors
/// [`StartError::Config`] if a log file cannot be opened.
pub fn start(config: &ServerConfig) -> Result<(), StartError> {
    let outputs = Arc::new(open(config)?);
    let writer = BoxMakeWriter::new(move || All(Arc::clone(&outputs)));
    // At debug level the network stack would say far more than we do. openraft's warnings are for whoever works on it: what an
    // operator has to know of them, the node says itself.
    let level = config.log_level.as_str().to_ascii_lowercase();
    let filter = EnvFilter::new(format!(
        "warn,openraft=error,quorate={level},quorate_server={level},quorate_node={level},quorate_storage={level},quorate_wal={level},quorate_tls={level}"
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    let started = match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    // An embedding program may have its own log.
    drop(started);
    Ok(())
}

enum Output {
    Stderr,
    Stdout,
    File(Mutex<RotatingFile>),
}

fn open(config: &ServerConfig) -> Result<Vec<Output>, StartError> {
    let open = |output: &LogOutput| match output {
        LogOutput::Stderr => Ok(Output::Stderr),
        LogOutput::Stdout => Ok(Output::Stdout),
        LogOutput::File(path) => RotatingFile::open(path, config.log_rotation)
            .map(|file| Output::File(Mutex::new(file)))
            .map_err(|error| StartError::config(format!("--log-outputs: cannot open {}: {error}", path.display()))),
    };
    config.log_outputs.iter().map(open).collect()
}

/// Writes a line to all outputs.
struct All(Arc<Vec<Output>>);

impl Write for All {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut outcome = Ok(line.len());
        for output in self.0.iter() {
            let written = match output {
                Output::Stderr => io::stderr().write_all(line),
                Output::Stdout => io::stdout().write_all(line),
                Output::File(file) => file.lock().append(line),
            };
            // The others get the line all the same.
            if let Err(error) = written {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing is kept back.
        Ok(())
    }
}
