// Asks queries, and answers them.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { emit, isUnreachable, keepOpen, settle, transport } from "./connection.js";
import { type AnswerQueryRequestSchema, QueryService } from "./gen/columba/v1/query_pb.js";
import { top } from "./key-values.js";

/** A query as a JSON line. */
export interface QueryLine {
  type: string;
  key?: string;
  revision?: number;
}

type Outcome = MessageInitShape<typeof AnswerQueryRequestSchema>["outcome"];

const queries = createClient(QueryService, transport);

export async function ask({ type, key, revision }: QueryLine): Promise<void> {
  // The answer is no older than the revision: that of a write, to read what was written.
  const answer = await queries.query({ type, key, minRevision: BigInt(revision ?? 0) });
  emit({ answer: JSON.parse(Buffer.from(answer.payload).toString()), revision: answer.revision });
}

/** Answers queries of the type `<bucket>.top`: the five highest entries whose keys begin with the query's key. */
export async function handleQueries(bucket: string): Promise<void> {
  const type = `${bucket}.top`;
  await keepOpen(
    (signal) => queries.handleQueries({ types: [type], handler: "typescript" }, { signal }),
    async ({ event }) => {
      if (event.case === "started") {
        emit({ handling: type });
      } else if (event.case === "delivery") {
        const { queryId, key } = event.value;
        const outcome = await answer(bucket, key);
        await settle(queries.answerQuery({ queryId, outcome }));
      }
    },
  );
}

async function answer(bucket: string, prefix: string): Promise<Outcome> {
  try {
    const { entries, revision } = await top(bucket, prefix);
    const payload = Buffer.from(JSON.stringify(entries));
    return { case: "result", value: { payload, contentType: "application/json", revision } };
  } catch (error) {
    if (!(error instanceof ConnectError) || isUnreachable(error)) {
      throw error;
    }
    return { case: "failure", value: { code: "TOP_REFUSED", message: error.rawMessage } };
  }
}
