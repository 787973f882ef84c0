"""Asks queries, and answers them."""

import json

import grpc

import key_values
from columba.v1.query_pb2 import (
    AnswerQueryRequest,
    HandleQueriesRequest,
    HandleQueriesResponse,
    QueryDelivery,
    QueryFailure,
    QueryRequest,
    QueryResult,
)
from columba.v1.query_pb2_grpc import QueryServiceStub
from connection import PATIENT, emit, keep_open, settle


async def ask(channel: grpc.aio.Channel, line: dict) -> None:
    # The answer is no older than the revision: that of a write, to read what was written.
    request = QueryRequest(type=line["type"], key=line.get("key", ""), min_revision=line.get("revision", 0))
    answer = await QueryServiceStub(channel).Query(request, **PATIENT)
    emit(answer=json.loads(answer.payload), revision=answer.revision)


async def handle(channel: grpc.aio.Channel, bucket: str) -> None:
    """Answers queries of the type `<bucket>.top`: the five highest entries whose keys begin with the query's key."""
    service = QueryServiceStub(channel)
    request = HandleQueriesRequest(types=[f"{bucket}.top"], handler="python")

    async def on_event(event: HandleQueriesResponse) -> None:
        match event.WhichOneof("event"):
            case "started":
                emit(handling=f"{bucket}.top")
            case "delivery":
                await settle(service.AnswerQuery(await answer(channel, bucket, event.delivery), **PATIENT))

    await keep_open(lambda: service.HandleQueries(request), on_event)


async def answer(channel: grpc.aio.Channel, bucket: str, delivery: QueryDelivery) -> AnswerQueryRequest:
    try:
        entries, revision = await key_values.top(channel, bucket, delivery.key)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            raise
        failure = QueryFailure(code="TOP_REFUSED", message=error.details())
        return AnswerQueryRequest(query_id=delivery.query_id, failure=failure)
    result = QueryResult(payload=json.dumps(entries).encode(), content_type="application/json", revision=revision)
    return AnswerQueryRequest(query_id=delivery.query_id, result=result)
