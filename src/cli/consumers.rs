//! `columba consumers`.

use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::message::printable;
use super::output::{self, rfc3339};
use super::pages;
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::proto::admin::{Consumer, ListConsumersRequest};

/// Consumers asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// List the open consumers of durable subscriptions, and what they hold
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  columba consumers --subscription billing")]
pub(super) struct ConsumersArgs {
    /// Only consumers of this subscription
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    name: String,
    subscription: String,
    connect_time: Option<String>,
    outstanding_messages: u32,
    outstanding_bytes: u64,
    max_outstanding_messages: u32,
    max_outstanding_bytes: u64,
}

impl From<Consumer> for Shown {
    fn from(consumer: Consumer) -> Self {
        Self {
            id: consumer.id,
            name: consumer.name,
            subscription: consumer.subscription,
            connect_time: rfc3339(consumer.connect_time.as_ref()),
            outstanding_messages: consumer.outstanding_messages,
            outstanding_bytes: consumer.outstanding_bytes,
            max_outstanding_messages: consumer.max_outstanding_messages,
            max_outstanding_bytes: consumer.max_outstanding_bytes,
        }
    }
}

pub(super) async fn run(args: ConsumersArgs, context: &Context) -> Result<(), Error> {
    let mut client = AdminServiceClient::new(context.connect().await?);
    let subscription = args.subscription.unwrap_or_default();
    let consumers = pages::all(usize::MAX, async |page_token| {
        let subscription = subscription.clone();
        let request = ListConsumersRequest { subscription, page_size: PAGE_SIZE, page_token };
        let page = client.list_consumers(context.request(request)).await?.into_inner();
        Ok((page.consumers.into_iter().map(Shown::from).collect(), page.next_page_token))
    });
    let consumers = consumers.await?;
    let header = ["CONSUMER", "NAME", "SUBSCRIPTION", "CONNECTED", "HOLDS", "OF", "SIZE", "OF"];
    context.format.list(&consumers, &header, &[4, 5, 6, 7], |shown| {
        vec![
            shown.id.clone(),
            printable(shown.name.as_bytes()).into_owned(),
            shown.subscription.clone(),
            shown.connect_time.clone().unwrap_or_default(),
            shown.outstanding_messages.to_string(),
            shown.max_outstanding_messages.to_string(),
            output::size(shown.outstanding_bytes),
            output::size(shown.max_outstanding_bytes),
        ]
    })?;
    Ok(())
}
