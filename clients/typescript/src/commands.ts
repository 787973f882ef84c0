// Sends commands, and carries them out.

import { randomUUID } from "node:crypto";
import { enumToJson, type MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { emit, isUnreachable, keepOpen, settle, transport } from "./connection.js";
import {
  type Command,
  CommandService,
  CommandState,
  CommandStateSchema,
  type CompleteCommandRequestSchema,
} from "./gen/columba/v1/command_pb.js";
import { put } from "./key-values.js";

/** A command as a JSON line. */
export interface CommandLine {
  id?: string;
  type: string;
  key?: string;
  payload?: string;
}

type Outcome = MessageInitShape<typeof CompleteCommandRequestSchema>["outcome"];

const commands = createClient(CommandService, transport);

/** Sends a command, and waits for its outcome. */
export async function send(line: CommandLine): Promise<void> {
  const command = {
    id: line.id || randomUUID(),
    type: line.type,
    // Commands with one key are carried out in order.
    key: line.key,
    payload: Buffer.from(line.payload ?? ""),
  };
  for (;;) {
    // The same id again is the same command: it runs once.
    const { execution } = await commands.sendCommand({ command, wait: { seconds: 10n } });
    if (execution?.endTime === undefined) {
      continue;
    }
    if (execution.state === CommandState.SUCCEEDED) {
      emit({ result: Buffer.from(execution.result).toString() });
    } else {
      emit({ state: enumToJson(CommandStateSchema, execution.state), failure: execution.failure?.code ?? "" });
    }
    return;
  }
}

/** Carries out commands of the type `<bucket>.put`: the payload, a number, is put under the command's key. */
export async function handleCommands(bucket: string): Promise<void> {
  const type = `${bucket}.put`;
  await keepOpen(
    (signal) => commands.handleCommands({ types: [type], handler: "typescript" }, { signal }),
    async ({ event }) => {
      if (event.case === "started") {
        emit({ handling: type });
      } else if (event.case === "delivery" && event.value.command) {
        const { ackId, command } = event.value;
        const outcome = await carryOut(bucket, command);
        await settle(commands.completeCommand({ ackId, outcome }));
      }
    },
  );
}

async function carryOut(bucket: string, command: Command): Promise<Outcome> {
  const payload = Buffer.from(command.payload).toString();
  const score = Number(payload);
  if (payload.trim() === "" || !Number.isFinite(score)) {
    return failed("NOT_A_NUMBER", `the payload is ${JSON.stringify(payload)}`);
  }
  try {
    // Should the command come again, the same is put again.
    const revision = await put(bucket, { key: command.key, value: payload, score });
    return { case: "result", value: Buffer.from(revision.toString()) };
  } catch (error) {
    if (!(error instanceof ConnectError) || isUnreachable(error)) {
      throw error;
    }
    return failed("PUT_REFUSED", error.rawMessage);
  }
}

/** The command has failed for good, and its sender is told why. */
function failed(code: string, message: string): Outcome {
  return { case: "failure", value: { code, message } };
}
