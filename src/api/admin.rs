//! `columba.admin.v1.AdminService`.

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use super::access::Access;
use super::validate::check;
use super::wire::admin::{self, admin_service_server::AdminService};
use super::{Context, authorization, convert, explain, page, watch};
use crate::model::Timestamp;
use crate::model::limits::{
    MAX_ACK_IDS, MAX_BATCH_ENTRIES, MAX_BUCKETS, MAX_COMMAND_PAYLOAD_BYTES, MAX_COMMAND_RESULT_BYTES,
    MAX_COMMAND_TYPES, MAX_CONSUMERS, MAX_ENTRY_WATCHES, MAX_HANDLERS, MAX_MESSAGE_BYTES, MAX_OPEN_QUERIES,
    MAX_PAGE_SIZE, MAX_PUBLISH_MESSAGES, MAX_QUERY_BYTES, MAX_QUERY_RESULT_BYTES, MAX_QUERY_WATCHERS,
    MAX_REQUEST_BYTES, MAX_SUBSCRIPTIONS, MAX_TOPICS, MAX_UNFINISHED_COMMANDS, MAX_UNFINISHED_PER_TYPE,
    MAX_VALUE_BYTES,
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
                history: capabilities.history,
            }),
            limits: Some(limits()),
            start_time: Some(convert::timestamp(self.start_time)),
        }))
    }

    async fn explain_message(
        &self,
        request: Request<admin::ExplainMessageRequest>,
    ) -> Result<Response<admin::ExplainMessageResponse>, Status> {
        let admin::ExplainMessageRequest { topic, offset } = request.into_inner();
        let topic = check(|violations| {
            let topic = violations.name("topic", &topic);
            if offset == 0 {
                violations.add(
                    "offset",
                    "INVALID_OFFSET",
                    "is 0, but offsets start at 1; give the message's",
                );
            }
            topic
        })?;
        let engine = &self.context.engine;
        let explanation = engine.explain(&topic, offset).await?;
        Ok(Response::new(explain::explanation(explanation, engine.capabilities().history)))
    }

    async fn list_consumers(
        &self,
        request: Request<admin::ListConsumersRequest>,
    ) -> Result<Response<admin::ListConsumersResponse>, Status> {
        let request = request.into_inner();
        let (subscription, page) = check(|violations| {
            let subscription = violations.optional_name("subscription", &request.subscription);
            let query = ["consumers", &request.subscription];
            let page = page::read_numbered(violations, request.page_size, &request.page_token, &query);
            Some((subscription, page?))
        })?;
        let mut consumers = self.context.engine.consumers(subscription.as_ref()).await?;
        consumers.retain(|consumer| consumer.number >= page.next);
        let next = consumers.get(page.size).map(|next| page.token(next.number));
        consumers.truncate(page.size);
        let consumers = consumers.into_iter().map(convert::consumer).collect();
        let next_page_token = next.unwrap_or_default();
        Ok(Response::new(admin::ListConsumersResponse { consumers, next_page_token }))
    }

    async fn list_handlers(
        &self,
        request: Request<admin::ListHandlersRequest>,
    ) -> Result<Response<admin::ListHandlersResponse>, Status> {
        let request = request.into_inner();
        let (kind, of, page) = check(|violations| {
            let kind = violations.handler_kind("kind", request.kind);
            let of = violations.optional_name("type", &request.r#type);
            let query = ["handlers", &request.kind.to_string(), &request.r#type];
            let page = page::read_numbered(violations, request.page_size, &request.page_token, &query);
            Some((kind, of, page?))
        })?;
        let mut handlers = self.context.cqrs.handlers.list(page.next, page.size + 1, kind, of.as_ref());
        let next = handlers.get(page.size).map(|next| page.token(next.number));
        handlers.truncate(page.size);
        let handlers = handlers.into_iter().map(convert::handler).collect();
        let next_page_token = next.unwrap_or_default();
        Ok(Response::new(admin::ListHandlersResponse { handlers, next_page_token }))
    }

    async fn explain_authorization(
        &self,
        request: Request<admin::ExplainAuthorizationRequest>,
    ) -> Result<Response<admin::ExplainAuthorizationResponse>, Status> {
        let access = Access::of(&request);
        let authorizer = self.context.security.authorizer.as_deref();
        Ok(Response::new(authorization::explain(authorizer, &access, request.into_inner())?))
    }

    type WatchEventsStream = BoxStream<'static, Result<admin::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        _request: Request<admin::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let advisories = self.context.engine.advisories()?;
        Ok(Response::new(Box::pin(watch::events(self.context.clone(), advisories))))
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
        max_handlers: number(MAX_HANDLERS),
        max_command_types: number(MAX_COMMAND_TYPES),
        max_unfinished_commands: number(MAX_UNFINISHED_COMMANDS),
        max_unfinished_commands_per_type: number(MAX_UNFINISHED_PER_TYPE),
        max_command_payload_bytes: MAX_COMMAND_PAYLOAD_BYTES as u64,
        max_command_result_bytes: MAX_COMMAND_RESULT_BYTES as u64,
        max_query_bytes: MAX_QUERY_BYTES as u64,
        max_query_result_bytes: MAX_QUERY_RESULT_BYTES as u64,
        max_open_queries: number(MAX_OPEN_QUERIES),
        max_query_watchers: number(MAX_QUERY_WATCHERS),
        max_buckets: number(MAX_BUCKETS),
        max_value_bytes: MAX_VALUE_BYTES.into(),
        max_batch_entries: number(MAX_BATCH_ENTRIES),
        max_entry_watches: number(MAX_ENTRY_WATCHES),
    }
}
