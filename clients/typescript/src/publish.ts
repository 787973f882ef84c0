// Publishes messages.

import { randomUUID } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { emit, transport } from "./connection.js";
import { PublisherService } from "./gen/columba/v1/publisher_pb.js";

/** A message as a JSON line; the data is in base64. */
export interface MessageLine {
  id?: string;
  key?: string;
  attributes?: Record<string, string>;
  data?: string;
}

const publisher = createClient(PublisherService, transport);

export async function publish(topic: string, line: MessageLine): Promise<void> {
  const message = {
    // Sent again with the same id, a message is stored once.
    id: line.id || randomUUID(),
    key: line.key,
    attributes: line.attributes,
    data: Buffer.from(line.data ?? "", "base64"),
  };
  const receipt = await publisher.publish({ topic, messages: [message] });
  // The message is on disk.
  const [duplicate] = receipt.duplicates;
  emit({ offset: duplicate?.offset ?? receipt.firstOffset, duplicate: duplicate !== undefined });
}
