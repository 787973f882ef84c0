// The example's command line; clients/README.md describes it.

import { createInterface } from "node:readline";
import { ConnectError } from "@connectrpc/connect";
import { type CommandLine, handleCommands, send } from "./commands.js";
import { emit } from "./connection.js";
import { consume } from "./consume.js";
import { type EntryLine, put, top } from "./key-values.js";
import { type MessageLine, publish } from "./publish.js";
import { ask, handleQueries, type QueryLine } from "./queries.js";

const USAGE = `\
usage: client publish TOPIC                      messages from standard input
       client consume SUBSCRIPTION [COUNT]
       client send                               commands from standard input
       client ask                                queries from standard input
       client handle BUCKET
       client put BUCKET                         entries from standard input
       client top BUCKET [PREFIX [REVISION]]`;

async function main([command, name, ...rest]: string[]): Promise<void> {
  if (command === "publish" && name !== undefined) {
    await eachLine((line: MessageLine) => publish(name, line));
  } else if (command === "consume" && name !== undefined) {
    await consume(name, rest[0] === undefined ? undefined : Number(rest[0]));
  } else if (command === "send") {
    await eachLine((line: CommandLine) => send(line));
  } else if (command === "ask") {
    await eachLine((line: QueryLine) => ask(line));
  } else if (command === "handle" && name !== undefined) {
    await Promise.all([handleCommands(name), handleQueries(name)]);
  } else if (command === "put" && name !== undefined) {
    await eachLine(async (line: EntryLine) => emit({ revision: await put(name, line) }));
  } else if (command === "top" && name !== undefined) {
    const { entries } = await top(name, rest[0], BigInt(rest[1] ?? 0));
    entries.forEach(emit);
  } else {
    throw new Error(USAGE);
  }
}

/** Reads JSON lines from standard input. */
async function eachLine<L>(handle: (line: L) => Promise<void>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    await handle(JSON.parse(line) as L);
  }
}

try {
  await main(process.argv.slice(2));
  // An open connection would keep the process alive.
  process.exit();
} catch (error) {
  console.error(error instanceof ConnectError ? `error: ${error.message}` : String(error));
  process.exit(1);
}
