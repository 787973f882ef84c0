// Consumes the messages of a subscription.

import { createClient } from "@connectrpc/connect";
import { emit, keepOpen, transport } from "./connection.js";
import type { Delivery } from "./gen/columba/v1/message_pb.js";
import { AckFailureReason, SubscriberService } from "./gen/columba/v1/subscriber_pb.js";

const subscriber = createClient(SubscriberService, transport);

export async function consume(subscription: string, count = Infinity): Promise<void> {
  const request = {
    target: { case: "subscription", value: subscription } as const,
    consumer: "typescript",
    // No more than this is on its way to this consumer, or with it, at once.
    maxOutstandingMessages: 100,
  };
  let consumed = 0;
  await keepOpen(
    (signal) => subscriber.subscribe(request, { signal }),
    async ({ event }) => {
      if (event.case !== "batch") {
        return false;
      }
      const { deliveries } = event.value;
      deliveries.forEach(work);
      const ackIds = deliveries.map((delivery) => delivery.ackId);
      const answer = await subscriber.ack({ subscription, ackIds });
      // Now that this is answered, no crash brings the messages back.
      for (const failure of answer.failures) {
        console.error(`not acknowledged: ${AckFailureReason[failure.reason]}`);
      }
      consumed += deliveries.length;
      return consumed >= count;
    },
  );
}

/** The work is to print it. After a fault a message may come again: doing it twice must do no harm. */
function work({ attempt, message: stored }: Delivery): void {
  const message = stored?.message;
  emit({
    topic: stored?.topic,
    offset: stored?.offset,
    attempt,
    id: message?.id,
    key: message?.key,
    attributes: message?.attributes,
    data: Buffer.from(message?.data ?? []).toString("base64"),
  });
}
