// The transport to the server, and streams that are opened again when they break.

import { setTimeout as sleep } from "node:timers/promises";
import { isMessage } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { GoawaySchema } from "./gen/columba/v1/subscriber_pb.js";

const FIRST_DELAY = 100; // milliseconds
const LONGEST_DELAY = 5_000;
const PATIENCE = 30_000;

/**
 * The server is away, or the connection to it broke. Connect reports the latter as an error with a cause on this side,
 * or as a canceled call, although nobody here cancels one.
 */
export function isUnreachable(error: unknown): boolean {
  if (!(error instanceof ConnectError)) {
    return false;
  }
  return error.code === Code.Unavailable || error.code === Code.Canceled || error.cause !== undefined;
}

/** Sends short calls again while the server cannot be reached, but not for ever. */
const retry: Interceptor = (next) => async (request) => {
  if (request.stream) {
    return next(request);
  }
  const end = Date.now() + PATIENCE;
  for (let delay = FIRST_DELAY; ; delay = Math.min(2 * delay, LONGEST_DELAY)) {
    try {
      return await next(request);
    } catch (error) {
      if (!isUnreachable(error) || Date.now() + delay > end) {
        throw error;
      }
      await sleep(delay);
    }
  }
};

export const transport = createGrpcTransport({
  baseUrl: `http://${process.env.COLUMBA_SERVER ?? "127.0.0.1:7171"}`,
  interceptors: [retry],
  // Notices a server that vanished without a word.
  pingIntervalMs: 20_000,
});

/**
 * Hands each event of a stream to `handle`, until that returns true.
 *
 * When the server goes away, whether the stream or a call in `handle` notices it, the stream is opened again. What
 * was not settled by then comes again.
 */
export async function keepOpen<E extends { event: { value?: unknown } }>(
  open: (signal: AbortSignal) => AsyncIterable<E>,
  handle: (event: E) => Promise<boolean | void>,
): Promise<void> {
  for (let delay = FIRST_DELAY; ; delay = Math.min(2 * delay, LONGEST_DELAY)) {
    const stream = new AbortController();
    try {
      for await (const event of open(stream.signal)) {
        delay = FIRST_DELAY;
        const { value } = event.event;
        if (isMessage(value, GoawaySchema) && value.reconnectAfter) {
          // A server that shuts down says when to come back.
          delay = Math.max(delay, durationMs(value.reconnectAfter));
        }
        if (await handle(event)) {
          return;
        }
      }
    } catch (error) {
      if (!isUnreachable(error)) {
        throw error;
      }
      console.error(`${error}: again in ${delay} ms`);
    } finally {
      stream.abort();
    }
    await sleep(delay * (1 + Math.random() / 2));
  }
}

/** Awaits an answer to the server that may come too late: then somebody else has the work, and that is all. */
export async function settle(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof ConnectError) || isUnreachable(error)) {
      throw error;
    }
    console.error(`not settled: ${error.message}`);
  }
}

/** Prints a JSON line. */
export function emit(fields: object): void {
  // An offset or a revision is a bigint, which JSON does not know. None gets so high that a number is not exact.
  const line = JSON.stringify(fields, (_, value) => (typeof value === "bigint" ? Number(value) : value));
  process.stdout.write(`${line}\n`);
}
