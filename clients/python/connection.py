"""The channel to the server, and streams that are opened again when they break."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterable, Awaitable, Callable

import grpc

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds

# gRPC itself sends short calls again when the server could not be reached.
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# For short calls: wait for the server while it is away, but not longer.
PATIENT = {"wait_for_ready": True, "timeout": 30}


def connect() -> grpc.aio.Channel:
    options = [
        ("grpc.service_config", json.dumps(RETRIES)),
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_DELAY * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(LONGEST_DELAY * 1000)),
        # Notices a server that vanished without a word.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    return grpc.aio.insecure_channel(os.environ.get("COLUMBA_SERVER", "127.0.0.1:7171"), options)


async def keep_open(open_stream: Callable[[], AsyncIterable], handle: Callable[..., Awaitable[bool | None]]) -> None:
    """Hands each event of a stream to `handle`, until that returns True.

    When the server goes away, whether the stream or a call in `handle` notices it, the stream is opened again.
    What was not settled by then comes again.
    """
    delay = FIRST_DELAY
    while True:
        stream = open_stream()
        try:
            async for event in stream:
                # A server that shuts down says in a goaway when to come back.
                delay = max(FIRST_DELAY, event.goaway.reconnect_after.ToTimedelta().total_seconds())
                if await handle(event):
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            print(f"{error.details()}: again in {delay:.1f} s", file=sys.stderr)
        finally:
            stream.cancel()
        await asyncio.sleep(delay * random.uniform(1, 1.5))
        delay = min(2 * delay, LONGEST_DELAY)


async def settle(call: Awaitable) -> None:
    """Awaits an answer to the server that may come too late: then somebody else has the work, and that is all."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            raise
        print(f"not settled: {error.details()}", file=sys.stderr)


def emit(**fields) -> None:
    print(json.dumps(fields), flush=True)
