//! Options of the log and of the audit log.

use super::settings::Settings;
use super::{LogOutput, at_least_one, choice};
use crate::StartError;
use crate::audit::{AuditOptions, WhenFull};
use crate::rotate::Rotation;
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// `--log-outputs`, each once.
pub fn outputs(settings: &mut Settings) -> Result<Vec<LogOutput>, StartError> {
    let mut outputs = Vec::new();
    for name in settings.list("log-outputs") {
        let output = match name.as_str() {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => {
                let text = "--log-outputs: systemd/journal is standard error, which systemd puts into the journal";
                settings.warnings.push(text.into());
                LogOutput::Stderr
            }
            path => LogOutput::File(path.into()),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        return Err(StartError::config("--log-outputs must name at least one output"));
    }
    Ok(outputs)
}

/// `--enable-log-rotation` with `--log-rotation-config-json`.
pub fn rotation(settings: &mut Settings, outputs: &[LogOutput]) -> Result<Option<Rotation>, StartError> {
    if !settings.boolean("enable-log-rotation")? {
        return Ok(None);
    }
    if !matches!(outputs, [LogOutput::File(_)]) {
        // etcd's words.
        return Err(StartError::config(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ));
    }
    let text = settings.text("log-rotation-config-json").to_owned();
    let bad = |why: &str| StartError::config(format!("--log-rotation-config-json: {why}: {text}"));
    let Ok(Value::Object(fields)) = serde_json::from_str(&text) else { return Err(bad("not a JSON object")) };
    let mut rotation = Rotation { bytes_max: 100 * MIB, files_max: None, age_max: None };
    for (name, value) in fields {
        let number = value.as_u64().ok_or_else(|| bad(&format!("{name} must be a number that is not negative")));
        match name.as_str() {
            "maxsize" => rotation.bytes_max = Some(number?).filter(|mib| *mib > 0).unwrap_or(100).saturating_mul(MIB),
            "maxage" => {
                let days = u32::try_from(number?).unwrap_or(u32::MAX);
                rotation.age_max = (days > 0).then(|| DAY.saturating_mul(days));
            }
            "maxbackups" => {
                let files = usize::try_from(number?).unwrap_or(usize::MAX);
                rotation.files_max = (files > 0).then_some(files);
            }
            "localtime" | "compress" => {
                if value.as_bool().ok_or_else(|| bad(&format!("{name} must be true or false")))? {
                    let why = if name == "compress" { "files are not compressed" } else { "names have UTC" };
                    settings.warnings.push(format!("--log-rotation-config-json: {name} changes nothing here: {why}"));
                }
            }
            _ => return Err(bad(&format!("unknown field {name}"))),
        }
    }
    Ok(Some(rotation))
}

/// `--audit-log-...`
pub fn audit(settings: &Settings) -> Result<Option<AuditOptions>, StartError> {
    let options = AuditOptions {
        path: settings.text("audit-log-path").into(),
        reads: settings.boolean("audit-log-reads")?,
        rotation: Rotation {
            bytes_max: settings.integer("audit-log-max-bytes")?,
            files_max: Some(settings.integer("audit-log-max-files")?),
            age_max: None,
        },
        queue_bytes_max: at_least_one(settings, "audit-log-queue-bytes")?,
        when_full: choice(settings, "audit-log-when-full", &[("wait", WhenFull::Wait), ("drop", WhenFull::Drop)])?,
    };
    Ok((!options.path.as_os_str().is_empty()).then_some(options))
}
