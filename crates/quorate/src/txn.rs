//! `txn`: conditions and two lists of requests, one per line, from standard input.

mod grammar;

use std::io::{self, BufRead};

use clap::Args;
use quorate_proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::print::{Reply, line};

/// Arguments of `txn`.
#[derive(Debug, Clone, Default, Args)]
pub struct TxnArgs {
    /// Say what is read next
    #[arg(short, long)]
    interactive: bool,

    #[arg(hide = true)]
    unexpected: Vec<String>,
}

impl TxnArgs {
    /// Reads a transaction and applies it.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.unexpected.is_empty() {
            return Err(Failure::arguments("txn command does not accept argument"));
        }
        let prompt = |text: &str| if self.interactive { line(text) } else { Ok(()) };
        let request = read(&mut io::stdin().lock(), prompt)?;
        let response = context.client().await?.kv().txn(request).await.map_err(|error| Failure::call(&error))?;
        context.show(Reply::Txn(&response))
    }
}

/// Reads the three parts of a transaction, each up to an empty line.
fn read(input: &mut impl BufRead, prompt: impl Fn(&str) -> Result<(), Failure>) -> Result<TxnRequest, Failure> {
    prompt("compares:")?;
    let compare: Vec<Compare> = read_part(input, grammar::compare)?;
    prompt("success requests (get, put, del):")?;
    let success: Vec<RequestOp> = read_part(input, grammar::operation)?;
    prompt("failure requests (get, put, del):")?;
    let failure = read_part(input, grammar::operation)?;
    Ok(TxnRequest { compare, success, failure })
}

fn read_part<T>(input: &mut impl BufRead, parse: impl Fn(&str) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let invalid = |message: String| Failure::new(Exit::InvalidInput, message);
    let mut part = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).map_err(|error| invalid(error.to_string()))?;
        // A part that the input cuts short may be half a transaction: never apply it.
        if !line.ends_with('\n') {
            return Err(invalid("EOF".to_owned()));
        }
        match line.trim() {
            "" => return Ok(part),
            line => part.push(parse(line)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(input: &str) -> Result<TxnRequest, Failure> {
        read(&mut input.as_bytes(), |_| Ok(()))
    }

    #[test]
    fn the_parts_end_with_empty_lines() {
        let txn = read_all("mod(\"a\") > \"0\"\n \nput a 1\nget a\n\ndel a\n\nnot read\n").unwrap();
        assert_eq!((txn.compare.len(), txn.success.len(), txn.failure.len()), (1, 2, 1));
        assert_eq!(read_all("\n\n\n").unwrap(), TxnRequest::default());
    }

    #[test]
    fn a_cut_transaction_is_not_applied() {
        for input in ["", "\n", "\n\n", "\n\nput a 1", "\nput a 1\n\nput a 2\n"] {
            assert_eq!(read_all(input), Err(Failure::new(Exit::InvalidInput, "EOF")), "{input:?}");
        }
    }
}
