//! The configuration file: YAML (and so JSON) with etcd's keys, read into one text per flag. Knows keys and lines, not what
//! the values mean.
//!
//! Guarantee: nothing in the file is dropped in silence. A key that is not known, is there twice, or has a value of the
//! wrong shape is a [`Problem`] with its line, and all of them are found in one go. The input is bounded, in bytes and in
//! depth, and aliases are refused, so that a small file cannot become a large tree.

use super::flags::{self, FLAGS, Flag, Kind, Status};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use std::collections::HashMap;
use std::fmt;

/// Far more than all options together take.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// `discovery-config: {client: {secure: {cert: ...}}}` is the deepest that there is.
const DEPTH_MAX: usize = 4;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In one line, with the key.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// One option that a file sets.
#[derive(Debug)]
pub struct Entry {
    /// The option.
    pub flag: &'static Flag,
    /// As it would be on the command line.
    pub value: String,
    /// Where it is.
    pub line: usize,
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Contents {
    /// In the order of the file.
    pub entries: Vec<Entry>,
    /// What the log should say.
    pub warnings: Vec<Problem>,
}

/// Keys that stand below another key in the file, and the flag that each is.
pub const NESTED: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", "client-cert-allowed-cn"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            ("client-cert-allowed-hostname", "client-cert-allowed-hostname"),
            ("crl-file", "client-crl-file"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
            ("crl-file", "peer-crl-file"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            ("insecure-skip-verify", "discovery-insecure-skip-tls-verify"),
        ],
    ),
    ("discovery-config.client.auth", &[("username", "discovery-user"), ("password", "discovery-password")]),
];

/// Keys of etcd's files that are no flags and change nothing, with the keys above them; the log says why.
const INERT: &[(&str, &str)] = &[(
    "client-transport-security.skip-client-san-verification",
    "a client's certificate need not stand for the address it comes from",
)];

/// Reads a file.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn read(text: &str) -> Result<Contents, Vec<Problem>> {
    if text.len() > FILE_BYTES_MAX {
        let text = format!("a configuration file has at most {FILE_BYTES_MAX} bytes");
        return Err(vec![Problem { line: 1, text }]);
    }
    // The parser puts what is missing at the end one line behind it.
    let root = parse(text).map_err(|problem| vec![Problem { line: problem.line.min(lines(text)), ..problem }])?;
    let mut reader = Reader::default();
    match root.value {
        Value::Map(fields) => reader.map("", fields),
        Value::Scalar { text, plain: true } if is_null(&text) => {}
        Value::Scalar { .. } | Value::List(_) => {
            reader.problem(root.line, "a configuration file is a list of `key: value` lines");
        }
    }
    if reader.problems.is_empty() {
        Ok(reader.contents)
    } else {
        reader.problems.sort_by_key(|problem| problem.line);
        Err(reader.problems)
    }
}

/// How many lines YAML sees, at least one: a carriage return alone ends a line as well.
fn lines(text: &str) -> usize {
    let breaks = text.replace("\r\n", "\n").matches(['\n', '\r']).count();
    let rest = usize::from(!text.ends_with(['\n', '\r']));
    (breaks + rest).max(1)
}

/// Where a flag stands in a file: the keys above its own, joined by dots, and its own.
pub fn place(flag: &str) -> (&'static str, Option<&'static str>) {
    for (section, keys) in NESTED {
        if let Some((key, _)) = keys.iter().find(|(_, name)| *name == flag) {
            return (section, Some(key));
        }
    }
    ("", None)
}

/// The name among `names` that is most like `name`, if one is like it at all.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LIKE: f64 = 0.8;
    names
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// YAML's value with the line on which it begins.
struct Node {
    value: Value,
    line: usize,
}

enum Value {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

type Events<'a> = Parser<'a, StrInput<'a>>;

fn parse(text: &str) -> Result<Node, Problem> {
    let mut events = Parser::new_from_str(text);
    let empty = Node { value: Value::Scalar { text: String::new(), plain: true }, line: 1 };
    loop {
        match next(&mut events)? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
            (Event::StreamEnd, _) => return Ok(empty),
            (event, span) => {
                let root = node(&mut events, event, span, 0)?;
                return end(&mut events).map(|()| root);
            }
        }
    }
}

/// Nothing may follow the first document.
fn end(events: &mut Events) -> Result<(), Problem> {
    loop {
        match next(events)? {
            (Event::DocumentEnd | Event::Nothing, _) => {}
            (Event::StreamEnd, _) => return Ok(()),
            (_, span) => return Err(problem_at(span, "a configuration file is one YAML document")),
        }
    }
}

fn next<'a>(events: &mut Events<'a>) -> Result<(Event<'a>, Span), Problem> {
    match events.next_event() {
        Some(Ok(event)) => Ok(event),
        Some(Err(error)) => {
            let (line, column) = (error.marker().line(), error.marker().col() + 1);
            Err(Problem { line, text: format!("this is not YAML: {} (column {column})", error.info()) })
        }
        None => Err(Problem { line: 1, text: "this is not YAML: it ends too early".into() }),
    }
}

fn problem_at(span: Span, text: &str) -> Problem {
    Problem { line: span.start.line(), text: text.to_owned() }
}

fn node<'a>(events: &mut Events<'a>, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
    if depth > DEPTH_MAX {
        return Err(problem_at(span, "no key of a configuration file is as deep as this"));
    }
    let value = match event {
        Event::Scalar(text, style, ..) => Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain },
        Event::SequenceStart(..) => {
            let mut list = Vec::new();
            loop {
                match next(events)? {
                    (Event::SequenceEnd, _) => break Value::List(list),
                    (event, span) => list.push(node(events, event, span, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut fields = Vec::new();
            loop {
                match next(events)? {
                    (Event::MappingEnd, _) => break Value::Map(fields),
                    (Event::Scalar(key, ..), key_span) => {
                        let (event, span) = next(events)?;
                        let mut value = node(events, event, span, depth + 1)?;
                        // People look for the key.
                        value.line = key_span.start.line();
                        fields.push((key.into_owned(), value));
                    }
                    (_, span) => return Err(problem_at(span, "a key must be a word")),
                }
            }
        }
        Event::Alias(_) => return Err(problem_at(span, "aliases are not used in a configuration file")),
        Event::Nothing
        | Event::StreamStart
        | Event::StreamEnd
        | Event::DocumentStart(_)
        | Event::DocumentEnd
        | Event::SequenceEnd
        | Event::MappingEnd => return Err(problem_at(span, "this is not YAML: a value is missing")),
    };
    Ok(Node { value, line: span.start.line() })
}

/// What YAML, in the version that etcd reads, takes for no value.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[derive(Default)]
struct Reader {
    contents: Contents,
    problems: Vec<Problem>,
    /// By flag: on which line.
    seen: HashMap<&'static str, usize>,
}

impl Reader {
    fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem { line, text: text.into() });
    }

    /// Reads the fields below `section`.
    fn map(&mut self, section: &str, fields: Vec<(String, Node)>) {
        for (key, node) in fields {
            let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            if NESTED.iter().any(|(section, _)| *section == path) {
                match node.value {
                    Value::Map(fields) => self.map(&path, fields),
                    Value::Scalar { text, plain: true } if is_null(&text) => {}
                    Value::Scalar { .. } | Value::List(_) => {
                        self.problem(node.line, format!("{path} has keys of its own below it"));
                    }
                }
            } else if let Some(flag) = find(section, &key) {
                self.field(&path, flag, node);
            } else if let Some((_, why)) = INERT.iter().find(|(inert, _)| *inert == path) {
                let text = format!("{path} changes nothing here: {why}");
                self.contents.warnings.push(Problem { line: node.line, text });
            } else {
                let hint = nearest(&key, keys_of(section)).map(|key| format!("; did you mean {key}?"));
                self.problem(node.line, format!("unknown key {path}{}", hint.unwrap_or_default()));
            }
        }
    }

    fn field(&mut self, path: &str, flag: &'static Flag, node: Node) {
        let line = node.line;
        if let Some(before) = self.seen.insert(flag.name, line) {
            return self.problem(line, format!("{path} is set on line {before} already"));
        }
        match flag_value(flag.kind, node) {
            Ok(Some(value)) => self.contents.entries.push(Entry { flag, value, line }),
            Ok(None) => {}
            Err(expected) => self.problem(line, format!("{path}: {expected}")),
        }
    }
}

/// The flag that a key of a section is.
fn find(section: &str, key: &str) -> Option<&'static Flag> {
    if section.is_empty() {
        // A file does not lead to another file.
        return flags::find(key).filter(|flag| flag.name != "config-file");
    }
    let (_, keys) = NESTED.iter().find(|(name, _)| *name == section)?;
    let (_, name) = keys.iter().find(|(name, _)| *name == key)?;
    flags::find(name)
}

fn keys_of(section: &str) -> Vec<&'static str> {
    if section.is_empty() {
        let sections = NESTED.iter().map(|(name, _)| *name).filter(|name| !name.contains('.'));
        // Nobody means what is only there to be ignored.
        let used = FLAGS.iter().filter(|flag| flag.status == Status::Used && flag.name != "config-file");
        return used.map(|flag| flag.name).chain(sections).collect();
    }
    let keys = NESTED.iter().filter(|(name, _)| *name == section).flat_map(|(_, keys)| keys.iter());
    keys.map(|(key, _)| *key).collect()
}

/// A value as it would be on the command line; `None` if there is none. The error says what is expected.
fn flag_value(kind: Kind, node: Node) -> Result<Option<String>, String> {
    let (text, plain) = match node.value {
        Value::Scalar { text, plain } => (text, plain),
        Value::List(parts) if matches!(kind, Kind::List | Kind::Urls) => return list_value(parts).map(Some),
        Value::List(_) => return Err("expected one value, not a list".into()),
        Value::Map(_) => return Err("expected a value, not keys below it".into()),
    };
    if plain && is_null(&text) {
        return Ok(None);
    }
    Ok(Some(match kind {
        Kind::Bool => bool_value(&text).ok_or_else(|| format!("{text:?} is neither true nor false"))?.to_owned(),
        Kind::Integer | Kind::Bytes => {
            let number: i64 = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
            if kind == Kind::Bytes && number < 0 {
                return Err(format!("{text:?} is negative"));
            }
            text
        }
        // etcd's files have nanoseconds there; what flags take is taken, too.
        Kind::Duration if text.parse::<u64>().is_ok() => format!("{text}ns"),
        Kind::Duration => {
            super::settings::parse_duration(&text)
                .ok_or_else(|| format!("{text:?} is neither a number of nanoseconds nor a duration such as 300ms"))?;
            text
        }
        Kind::Text | Kind::List | Kind::Urls => text,
    }))
}

fn list_value(parts: Vec<Node>) -> Result<String, String> {
    let mut texts = Vec::new();
    for part in parts {
        match part.value {
            Value::Scalar { text, .. } => texts.push(text),
            Value::List(_) | Value::Map(_) => return Err("expected a list of texts".into()),
        }
    }
    Ok(texts.join(","))
}

/// YAML 1.1, which etcd reads, has more words for it than 1.2.
fn bool_value(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some("true"),
        "false" | "no" | "off" | "n" => Some("false"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `flag=value@line`, or the problems.
    fn check(text: &str, expected: &[&str]) {
        let got: Vec<String> = match read(text) {
            Ok(contents) => contents
                .entries
                .iter()
                .map(|entry| format!("{}={}@{}", entry.flag.name, entry.value, entry.line))
                .chain(contents.warnings.iter().map(|warning| format!("! {warning}")))
                .collect(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn etcds_keys_are_read() {
        check(
            "# comment\nname: 'n1'\ndata-dir:\nheartbeat-interval: 100\nwarning-apply-duration: 100000000\n\
             strict-reconfig-check: off\nlog-outputs: [stderr, /x.log]\nlisten-client-urls: http://a:1,http://b:2\n",
            &[
                "name=n1@2",
                "heartbeat-interval=100@4",
                "warning-apply-duration=100000000ns@5",
                "strict-reconfig-check=false@6",
                "log-outputs=stderr,/x.log@7",
                "listen-client-urls=http://a:1,http://b:2@8",
            ],
        );
        check(r#"{"name": "json", "pre-vote": true}"#, &["name=json@1", "pre-vote=true@1"]);
        check("", &[]);
        check("---\nwatch-progress-notify-interval: 5s\n...\n", &["watch-progress-notify-interval=5s@2"]);
    }

    #[test]
    fn nested_keys_are_flags() {
        check(
            "client-transport-security:\n  cert-file: a\n  client-cert-auth: true\npeer-transport-security:\n  cert-file: b\n\
             socket-options: {reuse-port: true}\ndiscovery-config:\n  token: t\n  client:\n    endpoints: [c, d]\n    auth: {password: p}\n",
            &[
                "cert-file=a@2",
                "client-cert-auth=true@3",
                "peer-cert-file=b@5",
                "socket-reuse-port=true@6",
                "discovery-token=t@8",
                "discovery-endpoints=c,d@10",
                "discovery-password=p@11",
            ],
        );
        for (_, keys) in NESTED {
            for (_, name) in *keys {
                assert!(flags::find(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn all_problems_are_told_with_their_lines() {
        check(
            "nam: x\nheartbeat-interval: fast\nname: a\nname: b\npeer-transport-security:\n  cert-fil: y\nname2: [1]\npre-vote: maybe\n",
            &[
                "1: unknown key nam; did you mean name?",
                "2: heartbeat-interval: \"fast\" is not a whole number",
                "4: name is set on line 3 already",
                "6: unknown key peer-transport-security.cert-fil; did you mean cert-file?",
                "7: unknown key name2; did you mean name?",
                "8: pre-vote: \"maybe\" is neither true nor false",
            ],
        );
        check("qqqq: 1", &["1: unknown key qqqq"]);
        check("config-file: x", &["1: unknown key config-file"]);
        check("name: [a]", &["1: name: expected one value, not a list"]);
        check("cert-file: {a: b}", &["1: cert-file: expected a value, not keys below it"]);
        check("client-transport-security: 5", &["1: client-transport-security has keys of its own below it"]);
        check("- a", &["1: a configuration file is a list of `key: value` lines"]);
        check("a: &x 1\nb: *x", &["2: aliases are not used in a configuration file"]);
        check("name: a\n---\nname: b", &["2: a configuration file is one YAML document"]);
        check("name: [[[[[[[1]]]]]]]", &["1: no key of a configuration file is as deep as this"]);
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_line() {
        let problems = read("name: a\nx: [1, 2\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].text.starts_with("this is not YAML: "), "{problems:?}");
        for (cut, line) in [("name: a\nx", 2), ("name: a\nx\n", 2), ("name: a\rx", 2), ("name: a\r\nx\r\n", 2)] {
            let problems = read(cut).unwrap_err();
            assert_eq!(
                problems.iter().map(|problem| problem.line).collect::<Vec<_>>(),
                [line],
                "{cut:?}: {problems:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn mutated_files_are_read_or_refused_with_a_line(
            edits in proptest::collection::vec((0usize..400, proptest::prelude::any::<u8>(), 0u8..3), 1..12)
        ) {
            let mut bytes = b"name: n1\npeer-transport-security:\n  cert-file: 'a'\n  auto-tls: true\nlog-outputs: [stderr, \"b\"]\n\
                heartbeat-interval: 100\n# end\ncors: |\n  x\nquota-backend-bytes: -1\ndiscovery-config: {client: {auth: {}}}\n"
                .to_vec();
            for (place, byte, kind) in edits {
                let place = place % (bytes.len() + 1);
                match kind {
                    0 => bytes.insert(place, byte),
                    1 if place < bytes.len() => bytes[place] = byte,
                    _ => bytes.truncate(place.max(20)),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            // Counted in another way than the code does: the end of a line on Windows counts twice here.
            let most = text.split(['\n', '\r']).count();
            if let Err(problems) = read(&text) {
                proptest::prop_assert!(!problems.is_empty());
                for problem in problems {
                    proptest::prop_assert!((1..=most).contains(&problem.line), "{problem} of {most}");
                }
            }
        }
    }

    #[test]
    fn keys_that_change_nothing_say_so() {
        check(
            "enable-v2: true\nproxy: off\nclient-transport-security:\n  allowed-cn: [a, b]\n  skip-client-san-verification: true\n",
            &[
                "enable-v2=true@1",
                "proxy=off@2",
                "client-cert-allowed-cn=a,b@4",
                "! 5: client-transport-security.skip-client-san-verification changes nothing here: a client's certificate \
                 need not stand for the address it comes from",
            ],
        );
    }
}
