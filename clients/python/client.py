"""The example's command line; clients/README.md describes it."""

import asyncio
import json
import sys
from collections.abc import Iterator

import grpc

import commands
import key_values
import queries
from connection import connect, emit
from consume import consume
from publish import publish

USAGE = """\
usage: client publish TOPIC                      messages from standard input
       client consume SUBSCRIPTION [COUNT]
       client send                               commands from standard input
       client ask                                queries from standard input
       client handle BUCKET
       client put BUCKET                         entries from standard input
       client top BUCKET [PREFIX [REVISION]]"""


def lines() -> Iterator[dict]:
    return map(json.loads, sys.stdin.buffer)


async def main(*arguments: str) -> None:
    async with connect() as channel:
        match arguments:
            case "publish", topic:
                for line in lines():
                    await publish(channel, topic, line)
            case "consume", subscription, *count:
                await consume(channel, subscription, int(count[0]) if count else None)
            case ("send",):
                for line in lines():
                    await commands.send(channel, line)
            case ("ask",):
                for line in lines():
                    await queries.ask(channel, line)
            case "handle", bucket:
                await asyncio.gather(commands.handle(channel, bucket), queries.handle(channel, bucket))
            case "put", bucket:
                for line in lines():
                    emit(revision=await key_values.put(channel, bucket, line["key"], line["value"], line.get("score")))
            case "top", bucket, *selection:
                prefix, revision = selection + ["", "0"][len(selection) :]
                entries, _ = await key_values.top(channel, bucket, prefix, int(revision))
                for entry in entries:
                    emit(**entry)
            case _:
                sys.exit(USAGE)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except grpc.aio.AioRpcError as error:
        sys.exit(f"error: {error.code().name}: {error.details()}")
