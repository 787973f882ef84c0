//! The example's command line; clients/README.md describes it.

mod commands;
mod connection;
mod consume;
mod key_values;
mod publish;
mod queries;

use std::io;
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the protos say, in Rust.
mod columba {
    tonic::include_proto!("columba.v1");
}

type Error = Box<dyn std::error::Error>;

const USAGE: &str = "\
usage: client publish TOPIC                      messages from standard input
       client consume SUBSCRIPTION [COUNT]
       client send                               commands from standard input
       client ask                                queries from standard input
       client handle BUCKET
       client put BUCKET                         entries from standard input
       client top BUCKET [PREFIX [REVISION]]";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &[&str]) -> Result<(), Error> {
    let channel = connection::connect()?;
    match args {
        ["publish", topic] => {
            for line in lines() {
                publish::publish(&channel, topic, line?).await?;
            }
        }
        ["consume", subscription] => consume::consume(&channel, subscription, None).await?,
        ["consume", subscription, count] => {
            consume::consume(&channel, subscription, Some(count.parse()?)).await?;
        }
        ["send"] => {
            for line in lines() {
                commands::send(&channel, line?).await?;
            }
        }
        ["ask"] => {
            for line in lines() {
                queries::ask(&channel, line?).await?;
            }
        }
        ["handle", bucket] => {
            tokio::try_join!(commands::handle(&channel, bucket), queries::handle(&channel, bucket))?;
        }
        ["put", bucket] => {
            for line in lines() {
                let revision = key_values::put(&channel, bucket, line?).await?;
                emit(&serde_json::json!({ "revision": revision }));
            }
        }
        ["top", bucket, selection @ ..] if selection.len() <= 2 => {
            let prefix = selection.first().unwrap_or(&"");
            let revision = selection.get(1).unwrap_or(&"0").parse()?;
            key_values::top(&channel, bucket, prefix, revision).await?.entries.iter().for_each(emit);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// JSON lines from standard input.
fn lines<L: DeserializeOwned>() -> impl Iterator<Item = Result<L, Error>> {
    io::stdin().lines().map(|line| Ok(serde_json::from_str(&line?)?))
}

/// Prints a JSON line.
fn emit(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("it can be written as JSON"));
}
