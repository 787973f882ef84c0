"""Sends commands, and carries them out."""

import math
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration

import key_values
from columba.v1.command_pb2 import (
    Command,
    CommandDelivery,
    CommandFailure,
    CommandState,
    CompleteCommandRequest,
    HandleCommandsRequest,
    HandleCommandsResponse,
    SendCommandRequest,
)
from columba.v1.command_pb2_grpc import CommandServiceStub
from connection import PATIENT, emit, keep_open, settle


async def send(channel: grpc.aio.Channel, line: dict) -> None:
    """Sends a command, and waits for its outcome."""
    command = Command(
        id=line.get("id") or str(uuid4()),
        type=line["type"],
        # Commands with one key are carried out in order.
        key=line.get("key", ""),
        payload=line.get("payload", "").encode(),
    )
    request = SendCommandRequest(command=command, wait=Duration(seconds=10))
    while True:
        # The same id again is the same command: it runs once.
        execution = (await CommandServiceStub(channel).SendCommand(request, **PATIENT)).execution
        if execution.HasField("end_time"):
            break
    if execution.state == CommandState.COMMAND_STATE_SUCCEEDED:
        emit(result=execution.result.decode())
    else:
        emit(state=CommandState.Name(execution.state), failure=execution.failure.code)


async def handle(channel: grpc.aio.Channel, bucket: str) -> None:
    """Carries out commands of the type `<bucket>.put`: the payload, a number, is put under the command's key."""
    service = CommandServiceStub(channel)
    request = HandleCommandsRequest(types=[f"{bucket}.put"], handler="python")

    async def on_event(event: HandleCommandsResponse) -> None:
        match event.WhichOneof("event"):
            case "started":
                emit(handling=f"{bucket}.put")
            case "delivery":
                await settle(service.CompleteCommand(await carry_out(channel, bucket, event.delivery), **PATIENT))

    await keep_open(lambda: service.HandleCommands(request), on_event)


async def carry_out(channel: grpc.aio.Channel, bucket: str, delivery: CommandDelivery) -> CompleteCommandRequest:
    payload = delivery.command.payload.decode(errors="replace")
    try:
        score = float(payload)
        if not math.isfinite(score):
            raise ValueError
    except ValueError:
        return failed(delivery, "NOT_A_NUMBER", f"the payload is {payload!r}")
    try:
        # Should the command come again, the same is put again.
        revision = await key_values.put(channel, bucket, delivery.command.key, payload, score)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            raise
        return failed(delivery, "PUT_REFUSED", error.details())
    return CompleteCommandRequest(ack_id=delivery.ack_id, result=str(revision).encode())


def failed(delivery: CommandDelivery, code: str, message: str) -> CompleteCommandRequest:
    """The command has failed for good, and its sender is told why."""
    return CompleteCommandRequest(ack_id=delivery.ack_id, failure=CommandFailure(code=code, message=message))
