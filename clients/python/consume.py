"""Consumes the messages of a subscription."""

import sys
from base64 import b64encode

import grpc

from columba.v1.message_pb2 import Delivery
from columba.v1.subscriber_pb2 import AckFailureReason, AckRequest, SubscribeRequest, SubscribeResponse
from columba.v1.subscriber_pb2_grpc import SubscriberServiceStub
from connection import PATIENT, emit, keep_open


async def consume(channel: grpc.aio.Channel, subscription: str, count: int | None) -> None:
    subscriber = SubscriberServiceStub(channel)
    # No more than this is on its way to this consumer, or with it, at once.
    request = SubscribeRequest(subscription=subscription, consumer="python", max_outstanding_messages=100)
    consumed = 0

    async def handle(event: SubscribeResponse) -> bool:
        nonlocal consumed
        deliveries = event.batch.deliveries
        if not deliveries:
            return False
        for delivery in deliveries:
            work(delivery)
        ack = AckRequest(subscription=subscription, ack_ids=[delivery.ack_id for delivery in deliveries])
        answer = await subscriber.Ack(ack, **PATIENT)
        # Once this is answered, no crash brings the messages back.
        for failure in answer.failures:
            print(f"not acknowledged: {AckFailureReason.Name(failure.reason)}", file=sys.stderr)
        consumed += len(deliveries)
        return count is not None and consumed >= count

    await keep_open(lambda: subscriber.Subscribe(request), handle)


def work(delivery: Delivery) -> None:
    """The work is to print it. After a fault a message may come again: doing it twice must do no harm."""
    stored = delivery.message
    emit(
        topic=stored.topic,
        offset=stored.offset,
        attempt=delivery.attempt,
        id=stored.message.id,
        key=stored.message.key,
        attributes=dict(stored.message.attributes),
        data=b64encode(stored.message.data).decode(),
    )
