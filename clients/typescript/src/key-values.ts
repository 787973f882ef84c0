// Puts entries into a bucket, and reads the highest.

import { randomUUID } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { transport } from "./connection.js";
import { KeyValueService } from "./gen/columba/v1/key_value_pb.js";

/** An entry as a JSON line; not each has a score. */
export interface EntryLine {
  key: string;
  value: string;
  score?: number;
}

const keyValues = createClient(KeyValueService, transport);

/** Returns the revision of the write. The id makes it safe to send again. */
export async function put(bucket: string, { key, value, score }: EntryLine): Promise<bigint> {
  const { revision } = await keyValues.put({ bucket, key, value: Buffer.from(value), score, id: randomUUID() });
  return revision;
}

/** The five highest entries with a prefix, as of a revision or later, and the revision that they are of. */
export async function top(
  bucket: string,
  prefix = "",
  minRevision = 0n,
): Promise<{ entries: EntryLine[]; revision: bigint }> {
  const page = await keyValues.listEntries({ bucket, prefix, minRevision, orderBy: "score desc", pageSize: 5 });
  const entries = page.entries.map(({ key, value, score }) => ({ key, value: Buffer.from(value).toString(), score }));
  return { entries, revision: page.revision };
}
