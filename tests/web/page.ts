// A page that publishes, subscribes and acknowledges, with the library that browsers' programs use.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { PublisherService } from "./gen/columba/v1/publisher_pb.js";
import { SubscriberService } from "./gen/columba/v1/subscriber_pb.js";
import { SubscriptionService } from "./gen/columba/v1/subscription_pb.js";
import { TopicService } from "./gen/columba/v1/topic_pb.js";

const MESSAGES = ["one", "two", "three"];

async function run(server: string): Promise<object> {
  const transport = createGrpcWebTransport({ baseUrl: server });
  const topics = createClient(TopicService, transport);
  const subscriptions = createClient(SubscriptionService, transport);
  const publisher = createClient(PublisherService, transport);
  const subscriber = createClient(SubscriberService, transport);

  await topics.createTopic({ topic: { name: "orders" } });
  await subscriptions.createSubscription({ subscription: { name: "page", topic: "orders" } });
  const stream = subscriber.subscribe({ target: { case: "subscription", value: "page" } });
  const messages = MESSAGES.map((text) => ({ data: new TextEncoder().encode(text), key: "k\u00fc" }));
  const receipt = await publisher.publish({ topic: "orders", messages });

  const texts: string[] = [];
  for await (const response of stream) {
    if (response.event.case !== "batch") continue;
    const { deliveries } = response.event.value;
    for (const { message } of deliveries) {
      texts.push(new TextDecoder().decode(message!.message!.data));
    }
    const ackIds = deliveries.map((delivery) => delivery.ackId);
    const { failures } = await subscriber.ack({ subscription: "page", ackIds });
    if (failures.length > 0) throw new Error("an ack failed");
    if (texts.length === MESSAGES.length) break;
  }
  const { stats } = await subscriptions.getSubscriptionStats({ subscription: "page" });

  // The status of a call that fails at once is in headers, which the browser must be allowed to show.
  const error = await publisher.publish({ topic: "missing", messages }).then(
    () => undefined,
    (error: unknown) => ConnectError.from(error),
  );
  return {
    lastOffset: Number(receipt.lastOffset),
    texts,
    backlog: Number(stats!.backlogMessages),
    code: error && Code[error.code],
    details: error?.details.length,
  };
}

const server = new URLSearchParams(location.search).get("server")!;
run(server).then(
  (result) => report(result),
  (error: unknown) => report({ error: String(error) }),
);

function report(result: object) {
  document.body.textContent = JSON.stringify(result);
  document.title = "done";
}
