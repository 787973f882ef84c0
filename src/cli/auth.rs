//! `columba auth`.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::context::Context;
use super::error::Error;
use crate::authorization::{self, Basis, Decision, Target, Verb, Who};
use crate::identity::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, hash};
use crate::proto::admin;
use crate::proto::admin::admin_service_client::AdminServiceClient;

/// Work with tokens and rules
#[derive(Debug, clap::Subcommand)]
pub(super) enum AuthCommand {
    /// Print the hash of a token read from standard input, for the server's tokens file
    ///
    /// The server keeps hashes only (`identity.tokens`). A token must be long and random, because its
    /// hash is a plain SHA-256.
    #[command(after_help = "Examples:
  openssl rand -hex 32 > billing.token
  columba auth hash-token < billing.token")]
    HashToken,
    /// Say whether somebody may do something, and which rule decides
    ///
    /// Asks the server, or looks at a file of rules with --rules. About others than yourself, the server
    /// answers only if you have the verb admin on the name. The exit status is 0 if it is allowed and 1 if
    /// it is not.
    #[command(after_help = "Examples:
  columba auth explain --verb publish --name orders.eu
  columba auth explain --principal billing --group services --verb consume --name 'orders.>'
  columba auth explain --rules rules.toml --principal billing --verb publish --name orders.eu")]
    Explain(ExplainArgs),
    /// Check a file of rules, without a server
    ///
    /// Everything that is wrong is told at once.
    #[command(after_help = "Example:\n  columba auth check rules.toml")]
    Check {
        /// The file of rules (`authorization.rules`)
        #[arg(value_name = "FILE")]
        rules: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Whom the question is about [default: yourself]
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// A group of theirs; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// What they want to do: publish, consume, manage, send, handle, query, read, write or admin
    #[arg(long, value_parser = verb, value_name = "VERB")]
    verb: Verb,
    /// With what: the name of a topic, subscription or bucket, a type of commands or queries, or a pattern
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Look at this file of rules instead of asking the server
    #[arg(long, value_name = "FILE", requires = "principal")]
    rules: Option<PathBuf>,
}

fn verb(text: &str) -> Result<Verb, String> {
    let known = "publish, consume, manage, send, handle, query, read, write and admin";
    Verb::parse(text).ok_or_else(|| format!("the verbs are {known}"))
}

pub(super) async fn run(command: AuthCommand, context: &Context) -> Result<ExitCode, Error> {
    match command {
        AuthCommand::HashToken => hash_token(context)?,
        AuthCommand::Check { rules } => {
            let count = read(&rules)?.len();
            let sentence = format!("{}: {count} rules, and nothing wrong", rules.display());
            context.format.sentence(&serde_json::json!({ "rules": count }), &sentence)?;
        }
        AuthCommand::Explain(args) => {
            let answer = match &args.rules {
                Some(rules) => look_up(&read(rules)?, &args),
                None => ask(args, context).await?,
            };
            context.format.sentence(&answer, &answer.explanation)?;
            return Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &std::path::Path) -> Result<authorization::Rules, Error> {
    authorization::read(path).map_err(|problems| Error::Input(problems.join("\n")))
}

#[derive(Serialize)]
struct Answer {
    allowed: bool,
    rule: Option<Rule>,
    explanation: String,
}

/// The part of a rule that decided.
#[derive(Serialize)]
struct Rule {
    number: u32,
    line: u32,
    holder: String,
    group: bool,
    pattern: String,
}

fn look_up(rules: &authorization::Rules, args: &ExplainArgs) -> Answer {
    let who = Who { name: args.principal.as_deref().unwrap_or_default(), groups: &args.groups };
    let decision = rules.decide(who, args.verb, Target::Names(&args.name));
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let rule = |basis: Basis<'_>| Rule {
        number: number(basis.rule),
        line: number(basis.line),
        holder: basis.holder.to_owned(),
        group: basis.is_group,
        pattern: basis.pattern.to_string(),
    };
    let rule = match decision {
        Decision::Allowed(basis) | Decision::Denied(basis) => Some(rule(basis)),
        Decision::NotAllowed => None,
    };
    Answer { allowed: decision.is_allowed(), rule, explanation: decision.to_string() }
}

async fn ask(args: ExplainArgs, context: &Context) -> Result<Answer, Error> {
    let verb = format!("VERB_{}", args.verb.as_str().to_uppercase());
    let verb = admin::Verb::from_str_name(&verb).expect("the API has every verb");
    let request = admin::ExplainAuthorizationRequest {
        principal: args.principal.unwrap_or_default(),
        groups: args.groups,
        verb: verb.into(),
        name: args.name,
    };
    let mut client = AdminServiceClient::new(context.connect().await?);
    let response = client.explain_authorization(context.request(request)).await?.into_inner();
    let rule = response.rule.map(|rule| Rule {
        number: rule.number,
        line: rule.line,
        holder: rule.holder,
        group: rule.group,
        pattern: rule.pattern,
    });
    Ok(Answer { allowed: response.allowed, rule, explanation: response.explanation })
}

fn hash_token(context: &Context) -> Result<(), Error> {
    let mut token = String::new();
    let read = std::io::stdin().lock().take(MAX_TOKEN_BYTES as u64 + 2).read_to_string(&mut token);
    read.map_err(|error| Error::Input(format!("cannot read the token from standard input: {error}")))?;
    let token = token.trim();
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Error::Input(format!("the token is longer than {MAX_TOKEN_BYTES} bytes")));
    }
    if token.len() < MIN_TOKEN_BYTES {
        return Err(Error::Input(format!(
            "the token has {} bytes, and needs at least {MIN_TOKEN_BYTES}, so that nobody can guess it; make one \
             with `openssl rand -hex 32`",
            token.len()
        )));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Input("a token is one word of ASCII characters".into()));
    }
    let hash = hash(token);
    Ok(context.format.sentence(&serde_json::json!({ "hash": hash }), &hash)?)
}
