//! `columba.admin.v1.AdminService`.

use tonic::{Request, Response, Status, async_trait};

use super::wire::admin::{self, admin_service_server::AdminService};
use super::{Context, convert};
use crate::model::Timestamp;
use crate::model::limits::{
    MAX_ACK_IDS, MAX_CONSUMERS, MAX_MESSAGE_BYTES, MAX_PAGE_SIZE, MAX_PUBLISH_MESSAGES, MAX_REQUEST_BYTES,
    MAX_SUBSCRIPTIONS, MAX_TOPICS,
};

pub(super) struct Admin {
    context: Context,
    start_time: Timestamp,
}

impl Admin {
    /// Takes now as the start of the server.
    pub(super) fn new(context: Context) -> Self {
        Self { context, start_time: Timestamp::now() }
    }
}

#[async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        _request: Request<admin::GetServerInfoRequest>,
    ) -> Result<Response<admin::GetServerInfoResponse>, Status> {
        let capabilities = self.context.engine.capabilities();
        Ok(Response::new(admin::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            engine: capabilities.engine.into(),
            capabilities: Some(admin::Capabilities {
                persistent: capabilities.persistent,
                exclusive: capabilities.exclusive,
                key_ordered: capabilities.key_ordered,
                commit: capabilities.commit,
            }),
            limits: Some(limits()),
            start_time: Some(convert::timestamp(self.start_time)),
        }))
    }
}

fn limits() -> admin::Limits {
    let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    admin::Limits {
        max_message_bytes: MAX_MESSAGE_BYTES.into(),
        max_request_bytes: MAX_REQUEST_BYTES as u64,
        max_publish_messages: number(MAX_PUBLISH_MESSAGES),
        max_ack_ids: number(MAX_ACK_IDS),
        max_topics: number(MAX_TOPICS),
        max_subscriptions: number(MAX_SUBSCRIPTIONS),
        max_consumers: number(MAX_CONSUMERS),
        max_page_size: number(MAX_PAGE_SIZE),
    }
}
