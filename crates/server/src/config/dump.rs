//! The configuration as it counts in the end, and where each value comes from: `quorate config dump` and `config check`.
//! Secrets are masked.

use super::ServerConfig;
use super::file;
use super::flags::{FLAGS, Flag, Kind, Status};
use super::settings::Settings;
use crate::StartError;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::fmt::Write;

/// What is printed instead of a secret.
const MASK: &str = "********";

/// How [`dump`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    /// A configuration file, with where each value comes from as a comment.
    Yaml,
    /// An object: option to `value` and `source`.
    Json,
}

/// Checks what [`ServerConfig::parse`] would get, and what only a member without data needs. Returns the warnings that the
/// log would have at start.
///
/// # Errors
/// [`StartError::Usage`] or [`StartError::Config`]; the text has one line for each problem.
pub fn check(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<String>, StartError> {
    let config = ServerConfig::parse(args, env)?;
    config.check_first_start()?;
    Ok(config.warnings)
}

/// The value of every option that does something, and where it comes from.
///
/// # Errors
/// As [`ServerConfig::parse`]: what does not start is not dumped.
pub fn dump(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (String, String)>,
    format: DumpFormat,
) -> Result<String, StartError> {
    let mut settings = Settings::read(args, env)?;
    // The second reading of the values is what a server does with them; here only its errors matter.
    ServerConfig::from_settings(&mut settings).map_err(|error| settings.locate(error))?;
    let shown = FLAGS.iter().filter(|flag| flag.status == Status::Used && flag.name != "config-file");
    Ok(match format {
        DumpFormat::Yaml => yaml(&settings, shown),
        DumpFormat::Json => object(&settings, shown),
    })
}

fn object<'a>(settings: &Settings, flags: impl Iterator<Item = &'a Flag>) -> String {
    let options: Map<String, Value> = flags
        .map(|flag| {
            let value = json!({ "value": value(settings, flag), "source": settings.origin(flag.name) });
            (flag.name.to_owned(), value)
        })
        .collect();
    let mut text = format!("{:#}", Value::Object(options));
    text.push('\n');
    text
}

/// Top-level keys first, in the order of the table; then the sections.
fn yaml<'a>(settings: &Settings, flags: impl Iterator<Item = &'a Flag>) -> String {
    let mut out = String::new();
    let mut nested: Vec<&Flag> = Vec::new();
    for flag in flags {
        if file::place(flag.name).1.is_some() {
            nested.push(flag);
        } else {
            line(&mut out, 0, flag.name, settings, flag);
        }
    }
    // Sections stand in the order of their table, each below the one that it belongs to.
    let mut open: Vec<&str> = Vec::new();
    for (section, _) in file::NESTED {
        for flag in nested.iter().filter(|flag| file::place(flag.name).0 == *section) {
            let path: Vec<&str> = section.split('.').collect();
            if !open.starts_with(&path) || open.len() != path.len() {
                let common = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
                for (depth, name) in path.iter().enumerate().skip(common) {
                    let _ = writeln!(out, "{}{name}:", "  ".repeat(depth));
                }
                open.clone_from(&path);
            }
            let key = file::place(flag.name).1.unwrap_or(flag.name);
            line(&mut out, path.len(), key, settings, flag);
        }
    }
    out
}

fn line(out: &mut String, depth: usize, key: &str, settings: &Settings, flag: &Flag) {
    let (value, origin) = (value(settings, flag), settings.origin(flag.name));
    // JSON's scalars are YAML's as well.
    let _ = writeln!(out, "{}{key}: {value} # {origin}", "  ".repeat(depth));
}

fn value(settings: &Settings, flag: &Flag) -> Value {
    let text = settings.text(flag.name);
    let text = if flag.name == "data-dir" { text.replace("${name}", settings.text("name")) } else { text.to_owned() };
    match flag.kind {
        Kind::Bool => settings.boolean(flag.name).map_or(Value::String(text), Value::Bool),
        Kind::Integer | Kind::Bytes => {
            text.parse::<i64>().map_or_else(|_| Value::String(text.clone()), |number| json!(number))
        }
        Kind::Text | Kind::Duration | Kind::List | Kind::Urls => Value::String(masked(flag.name, &text)),
    }
}

/// The text without what is secret in it.
fn masked(name: &str, text: &str) -> String {
    if name.ends_with("password") && !text.is_empty() {
        return MASK.to_owned();
    }
    if let (true, Some((user, _))) = (name.ends_with("user"), text.split_once(':')) {
        return format!("{user}:{MASK}");
    }
    text.split(',').map(mask_url).collect::<Vec<_>>().join(",")
}

/// `http://user:password@host` without the password.
fn mask_url(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        let (credentials, host) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{host}"))
    });
    parts.unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(args: &[&str], env: &[(&str, &str)], format: DumpFormat) -> String {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        dump(args.iter().map(OsString::from), env, format).unwrap()
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let env = [("QUORATE_LOG_LEVEL", "debug"), ("ETCD_MAX_TXN_OPS", "7")];
        let yaml = dumped(&["--name=n1"], &env, DumpFormat::Yaml);
        for line in [
            "name: \"n1\" # --name\n",
            "data-dir: \"n1.etcd\" # default\n",
            "log-level: \"debug\" # QUORATE_LOG_LEVEL\n",
            "max-txn-ops: 7 # ETCD_MAX_TXN_OPS\n",
            "pre-vote: true # default\n",
        ] {
            assert!(yaml.contains(line), "{line} in {yaml}");
        }
        let json: Value = serde_json::from_str(&dumped(&["--name=n1"], &env, DumpFormat::Json)).unwrap();
        assert_eq!(json["name"], json!({ "value": "n1", "source": "--name" }));
        assert_eq!(json["max-txn-ops"], json!({ "value": 7, "source": "ETCD_MAX_TXN_OPS" }));
    }

    #[test]
    fn what_is_dumped_is_a_configuration_file_that_means_the_same() {
        let first = dumped(&["--name=n1", "--auto-compaction-retention=1h"], &[], DumpFormat::Yaml);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.yaml");
        std::fs::write(&path, &first).unwrap();
        let second = dumped(&["--config-file", path.to_str().unwrap()], &[], DumpFormat::Yaml);
        let values = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(values(&second), values(&first));
    }

    #[test]
    fn secrets_are_masked() {
        for (name, text, expected) in [
            ("discovery-password", "s3cret", "********"),
            ("discovery-user", "me:s3cret", "me:********"),
            ("discovery-user", "me", "me"),
            ("discovery-proxy", "http://me:s3cret@host:1", "http://me:********@host:1"),
            ("listen-client-urls", "http://[::1]:1,http://b:2", "http://[::1]:1,http://b:2"),
        ] {
            assert_eq!(masked(name, text), expected);
        }
    }
}
