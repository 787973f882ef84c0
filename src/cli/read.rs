//! `columba read`.

use super::context::{Context, MAX_RESPONSE_BYTES};
use super::error::Error;
use super::message::Printer;
use super::parse;
use crate::proto::v1::start_position::Position;
use crate::proto::v1::subscriber_service_client::SubscriberServiceClient;
use crate::proto::v1::{ReadMessagesRequest, StartPosition};

/// Messages asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// Print the messages of a topic up to its end; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba read orders.created --count 10
  columba read orders.created --from 2026-01-31T12:00:00Z -o json")]
pub(super) struct ReadArgs {
    /// The topic
    topic: String,
    /// Where to begin: earliest, latest, an offset, or a time as in RFC 3339 [default: earliest]
    #[arg(long, value_name = "POSITION", value_parser = parse::position)]
    from: Option<StartPosition>,
    /// Stop after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) async fn run(args: ReadArgs, context: &Context) -> Result<(), Error> {
    let mut client =
        SubscriberServiceClient::new(context.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let mut printer = Printer::new(context.format);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut start = args.from;
    while left > 0 {
        let max_messages = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE_SIZE);
        let request = ReadMessagesRequest { topic: args.topic.clone(), start, max_messages, max_bytes: 0 };
        let page = client.read_messages(context.request(request)).await?.into_inner().messages;
        for message in &page {
            printer.print(message, 0)?;
        }
        printer.flush()?;
        let Some(last) = page.last() else { break };
        start = Some(StartPosition { position: Some(Position::Offset(last.offset + 1)) });
        left = left.saturating_sub(page.len() as u64);
    }
    Ok(())
}
