//! Just enough of Rust's syntax to say which paths a file names outside of its tests.
//!
//! A lexer, `use` trees, and nothing else: no macros are expanded and no types are known. It guarantees that comments,
//! strings and `#[cfg(test)]` items are never reported, and that a path is resolved through the `use` items of its own
//! file. It does not follow re-exports or type aliases.

use std::collections::BTreeMap;

/// A path as it is written in a file, resolved through the file's `use` items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    /// From 1.
    pub line: usize,
    /// Segments joined by `::`; ends with `::*` for a glob import.
    pub path: String,
}

/// What a file names.
#[derive(Debug, Default)]
pub struct Names {
    /// Every path outside of tests, in the order of the file.
    pub paths: Vec<NamedPath>,
    /// Modules declared as `#[cfg(test)] mod name;`: their files are tests as a whole.
    pub test_modules: Vec<String>,
}

/// Reads a source file.
pub fn names(source: &str) -> Names {
    let mut names = Names::default();
    let tokens = without_tests(lex(source), &mut names.test_modules);

    let mut imports: BTreeMap<String, String> = BTreeMap::new();
    let mut mentions: Vec<NamedPath> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match &token.kind {
            Kind::Ident(word) if word == "use" => {
                at += 1;
                let mut tree = UseTree { tokens: &tokens, at, imports: &mut imports, paths: &mut names.paths };
                tree.branch("");
                at = tree.at;
            }
            Kind::Ident(_) => {
                let (path, next) = path_at(&tokens, at);
                mentions.push(NamedPath { line: token.line, path });
                at = next;
            }
            Kind::Sep | Kind::Punct(_) => at += 1,
        }
    }
    // After all imports are known: a `use` may stand below what uses it.
    for mention in &mut mentions {
        let (first, rest) = mention.path.split_once("::").unwrap_or((&mention.path, ""));
        if let Some(full) = imports.get(first) {
            mention.path = if rest.is_empty() { full.clone() } else { format!("{full}::{rest}") };
        }
    }
    names.paths.append(&mut mentions);
    names.paths.sort_by_key(|named| named.line);
    names
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Ident(String),
    /// `::`
    Sep,
    Punct(char),
}

#[derive(Clone, Debug)]
struct Token {
    line: usize,
    kind: Kind,
}

impl Token {
    fn is(&self, punct: char) -> bool {
        self.kind == Kind::Punct(punct)
    }

    fn is_word(&self, expected: &str) -> bool {
        matches!(&self.kind, Kind::Ident(word) if word == expected)
    }
}

/// Tokens without comments, strings, characters, numbers and lifetimes.
fn lex(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { chars: source.chars().collect(), at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == '\n' {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    fn push(&mut self, line: usize, kind: Kind) {
        self.tokens.push(Token { line, kind });
    }

    fn step(&mut self) {
        let line = self.line;
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.skip(1);
                }
            }
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('\'', _) => self.quote(),
            (':', ':') => {
                self.skip(2);
                self.push(line, Kind::Sep);
            }
            (c, _) if c.is_alphabetic() || c == '_' => self.word(),
            (c, _) if c.is_ascii_digit() => {
                while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                    self.skip(1);
                }
            }
            (c, _) if c.is_whitespace() => self.skip(1),
            (c, _) => {
                self.skip(1);
                self.push(line, Kind::Punct(c));
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => {
                    depth += 1;
                    self.skip(2);
                }
                ('*', '/') => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.skip(1),
            }
        }
    }

    fn string(&mut self) {
        self.skip(1);
        while self.at < self.chars.len() {
            match self.peek(0) {
                '\\' => self.skip(2),
                '"' => return self.skip(1),
                _ => self.skip(1),
            }
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.skip(hashes + 1);
        while self.at < self.chars.len() {
            if self.peek(0) == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == '#') {
                return self.skip(1 + hashes);
            }
            self.skip(1);
        }
    }

    /// A character or a lifetime.
    fn quote(&mut self) {
        if self.peek(1) == '\\' {
            self.skip(3);
            while self.at < self.chars.len() && self.peek(0) != '\'' {
                self.skip(1);
            }
            self.skip(1);
        } else if self.peek(2) == '\'' {
            self.skip(3);
        } else {
            self.skip(1);
            while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                self.skip(1);
            }
        }
    }

    fn word(&mut self) {
        let line = self.line;
        let mut word = String::new();
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            word.push(self.peek(0));
            self.skip(1);
        }
        let hashes = (0..).take_while(|&ahead| self.peek(ahead) == '#').count();
        match word.as_str() {
            "r" | "br" | "cr" if self.peek(hashes) == '"' => self.raw_string(hashes),
            "b" | "c" if self.peek(0) == '"' => self.string(),
            "b" if self.peek(0) == '\'' => self.quote(),
            // A raw identifier: the word after `r#` is the name.
            "r" if hashes == 1 => self.skip(1),
            _ => self.push(line, Kind::Ident(word)),
        }
    }
}

/// Drops every item that is only compiled for tests.
fn without_tests(tokens: Vec<Token>, test_modules: &mut Vec<String>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let inner = token.is('#') && tokens.get(at + 1).is_some_and(|token| token.is('!'));
        let bracket = at + 1 + usize::from(inner);
        if !(token.is('#') && tokens.get(bracket).is_some_and(|token| token.is('['))) {
            kept.push(token.clone());
            at += 1;
            continue;
        }
        let end = group_end(&tokens, bracket);
        if is_cfg_test(&tokens[bracket..end]) {
            if inner {
                return Vec::new();
            }
            at = item_end(&tokens, end, test_modules);
        } else {
            kept.extend_from_slice(&tokens[at..end]);
            at = end;
        }
    }
    kept
}

/// `[cfg(test)]` and `[cfg(all(test, ...))]`.
fn is_cfg_test(attribute: &[Token]) -> bool {
    let mut words = attribute.iter().filter_map(|token| match &token.kind {
        Kind::Ident(word) => Some(word.as_str()),
        Kind::Sep | Kind::Punct(_) => None,
    });
    let (first, second, third) = (words.next(), words.next(), words.next());
    first == Some("cfg") && (second == Some("test") || (second == Some("all") && third == Some("test")))
}

/// The index behind the group that opens at `open`.
fn group_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Punct('(' | '[' | '{') => depth += 1,
            Kind::Punct(')' | ']' | '}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            Kind::Punct(_) | Kind::Ident(_) | Kind::Sep => {}
        }
    }
    tokens.len()
}

/// The index behind the item that starts at `at`, whose attributes may not be over yet.
fn item_end(tokens: &[Token], mut at: usize, test_modules: &mut Vec<String>) -> usize {
    while tokens.get(at).is_some_and(|token| token.is('#')) {
        at = group_end(tokens, at + 1);
    }
    let mut braces_end_it = true;
    while let Some(token) = tokens.get(at) {
        match &token.kind {
            Kind::Ident(word) if word == "use" => braces_end_it = false,
            Kind::Ident(word) if word == "mod" => {
                if let (Some(Token { kind: Kind::Ident(name), .. }), Some(end)) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                    && end.is(';')
                {
                    test_modules.push(name.clone());
                }
            }
            Kind::Punct(';' | ',') => return at + 1,
            // The end of what holds the item: a last field or variant without a comma.
            Kind::Punct('}' | ')' | ']') => return at,
            Kind::Punct('{') if braces_end_it => return group_end(tokens, at),
            Kind::Punct('(' | '[' | '{') => {
                at = group_end(tokens, at);
                continue;
            }
            Kind::Ident(_) | Kind::Sep | Kind::Punct(_) => {}
        }
        at += 1;
    }
    at
}

/// The path that starts with the word at `at`, and the index behind it.
fn path_at(tokens: &[Token], at: usize) -> (String, usize) {
    let mut path = String::new();
    let mut next = at;
    while let Some(Token { kind: Kind::Ident(word), .. }) = tokens.get(next) {
        path.push_str(word);
        next += 1;
        let goes_on = tokens.get(next).is_some_and(|token| token.kind == Kind::Sep)
            && matches!(tokens.get(next + 1), Some(Token { kind: Kind::Ident(_), .. }));
        if !goes_on {
            break;
        }
        path.push_str("::");
        next += 1;
    }
    (path, next)
}

struct UseTree<'a> {
    tokens: &'a [Token],
    at: usize,
    imports: &'a mut BTreeMap<String, String>,
    paths: &'a mut Vec<NamedPath>,
}

impl UseTree<'_> {
    /// One branch of a `use`, up to its `,`, `}` or `;`.
    fn branch(&mut self, prefix: &str) {
        let mut path = prefix.to_owned();
        while let Some(token) = self.tokens.get(self.at) {
            let line = token.line;
            match &token.kind {
                Kind::Sep => self.at += 1,
                Kind::Punct('*') => {
                    self.at += 1;
                    self.paths.push(NamedPath { line, path: format!("{path}::*") });
                    return;
                }
                Kind::Punct('{') => {
                    self.at += 1;
                    self.branches(&path);
                    return;
                }
                Kind::Ident(word) => {
                    self.at += 1;
                    // `self` in braces stands for the path so far.
                    if word != "self" || path.is_empty() {
                        path = if path.is_empty() { word.clone() } else { format!("{path}::{word}") };
                    }
                    if !self.tokens.get(self.at).is_some_and(|token| token.kind == Kind::Sep) {
                        self.import(line, &path);
                        return;
                    }
                }
                Kind::Punct(_) => return,
            }
        }
    }

    fn branches(&mut self, prefix: &str) {
        while let Some(token) = self.tokens.get(self.at) {
            if token.is('}') {
                self.at += 1;
                return;
            }
            if token.is(',') {
                self.at += 1;
                continue;
            }
            let before = self.at;
            self.branch(prefix);
            if self.at == before {
                return;
            }
        }
    }

    fn import(&mut self, line: usize, path: &str) {
        let mut name = path.rsplit("::").next().unwrap_or(path);
        if self.tokens.get(self.at).is_some_and(|token| token.is_word("as")) {
            if let Some(Token { kind: Kind::Ident(alias), .. }) = self.tokens.get(self.at + 1) {
                name = alias;
            }
            self.at += 2;
        }
        self.imports.insert(name.to_owned(), path.to_owned());
        self.paths.push(NamedPath { line, path: path.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    fn has(source: &str, path: &str) -> Option<usize> {
        names(source).paths.into_iter().find(|named| named.path == path).map(|named| named.line)
    }

    #[test]
    fn a_path_is_resolved_through_groups_and_aliases() {
        let source =
            "use std::{fs::{self as files, File}, time};\nfn f() {\n files::read(x);\n time::Instant::now();\n}";
        assert_eq!(has(source, "std::fs::read"), Some(3));
        assert_eq!(has(source, "std::time::Instant::now"), Some(4));
        assert_eq!(has(source, "std::fs::File"), Some(1));
    }

    #[test]
    fn an_import_below_its_use_counts() {
        assert_eq!(has("fn f() { Instant::now() }\nuse std::time::Instant;", "std::time::Instant::now"), Some(1));
    }

    #[test]
    fn a_name_of_another_crate_stays_that_crates() {
        let source = "use tokio::time::Instant;\nfn f() { Instant::now(); }";
        assert_eq!(has(source, "tokio::time::Instant::now"), Some(2));
        assert_eq!(has(source, "std::time::Instant::now"), None);
    }

    #[test]
    fn comments_strings_and_characters_name_nothing() {
        let source = r####"
            // std::fs::read
            /* /* nested */ std::fs::read */
            const A: &str = "std::fs::read \" std::fs::read";
            const B: &str = r#"std::fs::read " std::fs::read"#;
            const C: char = '"'; const D: char = '\''; fn f<'a>(x: &'a str) {}
            const E: &[u8] = b"std::fs::read";
        "####;
        assert_eq!(has(source, "std::fs::read"), None);
        assert!(has(source, "f").is_some(), "the code behind the literals is still read");
    }

    #[test]
    fn tests_are_left_out_and_what_follows_is_not() {
        let source = "
            #[cfg(test)] use std::{fs, net};
            #[cfg(test)] #[allow(dead_code)] fn helper() -> [u8; 2] { std::fs::read(x); }
            #[cfg(all(test, unix))] mod tests { fn f() { std::fs::read(x); } }
            #[cfg(test)] mod suite;
            struct S { #[cfg(test)] probe: std::fs::File }
            #[cfg(not(test))] fn real() { std::process::exit(1); }
        ";
        let names = names(source);
        assert!(!names.paths.iter().any(|named| named.path.starts_with("std::fs")), "{:?}", names.paths);
        assert_eq!(names.test_modules, ["suite"]);
        assert_eq!(has(source, "std::process::exit"), Some(7));
    }

    #[test]
    fn a_glob_keeps_its_star() {
        assert_eq!(has("use std::net::*;", "std::net::*"), Some(1));
    }
}
