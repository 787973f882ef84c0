"""Publishes messages."""

from base64 import b64decode
from uuid import uuid4

import grpc

from columba.v1.message_pb2 import Message
from columba.v1.publisher_pb2 import PublishRequest
from columba.v1.publisher_pb2_grpc import PublisherServiceStub
from connection import PATIENT, emit


async def publish(channel: grpc.aio.Channel, topic: str, line: dict) -> None:
    message = Message(
        # Sent again with the same id, a message is stored once.
        id=line.get("id") or str(uuid4()),
        key=line.get("key", ""),
        attributes=line.get("attributes", {}),
        data=b64decode(line.get("data", "")),
    )
    receipt = await PublisherServiceStub(channel).Publish(PublishRequest(topic=topic, messages=[message]), **PATIENT)
    # The message is on disk.
    duplicates = receipt.duplicates
    emit(offset=duplicates[0].offset if duplicates else receipt.first_offset, duplicate=bool(duplicates))
