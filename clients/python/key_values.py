"""Puts entries into a bucket, and reads the highest."""

from uuid import uuid4

import grpc

from columba.v1.key_value_pb2 import ListEntriesRequest, PutRequest
from columba.v1.key_value_pb2_grpc import KeyValueServiceStub
from connection import PATIENT


async def put(channel: grpc.aio.Channel, bucket: str, key: str, value: str, score: float | None) -> int:
    """Returns the revision of the write. The id makes it safe to send again."""
    request = PutRequest(bucket=bucket, key=key, value=value.encode(), score=score, id=str(uuid4()))
    return (await KeyValueServiceStub(channel).Put(request, **PATIENT)).revision


async def top(channel: grpc.aio.Channel, bucket: str, prefix: str, revision: int = 0) -> tuple[list[dict], int]:
    """The five highest entries with a prefix, as of a revision or later, and the revision that they are of."""
    request = ListEntriesRequest(
        bucket=bucket, prefix=prefix, order_by="score desc", page_size=5, min_revision=revision
    )
    page = await KeyValueServiceStub(channel).ListEntries(request, **PATIENT)
    entries = [{"key": entry.key, "value": entry.value.decode(), "score": entry.score} for entry in page.entries]
    return entries, page.revision
