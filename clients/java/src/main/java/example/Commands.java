package example;

import columba.v1.Command;
import columba.v1.CommandFailure;
import columba.v1.CommandServiceGrpc;
import columba.v1.CommandServiceGrpc.CommandServiceBlockingStub;
import columba.v1.CommandState;
import columba.v1.CompleteCommandRequest;
import columba.v1.HandleCommandsRequest;
import columba.v1.HandleCommandsResponse;
import columba.v1.SendCommandRequest;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import io.grpc.StatusRuntimeException;
import java.util.Map;
import java.util.UUID;

import static example.Connection.isUnreachable;
import static example.Connection.patient;
import static example.Connection.settle;
import static java.util.Objects.requireNonNullElse;
import static java.util.Objects.requireNonNullElseGet;

/** Sends commands, and carries them out. */
final class Commands {
    /** A command as a JSON line. */
    record Line(String id, String type, String key, String payload) {}

    private final Connection connection;
    private final CommandServiceBlockingStub service;

    Commands(Connection connection) {
        this.connection = connection;
        this.service = CommandServiceGrpc.newBlockingStub(connection.channel);
    }

    /** Sends a command, and waits for its outcome. */
    void send(Line line) {
        var command = Command.newBuilder()
                .setId(requireNonNullElseGet(line.id, () -> UUID.randomUUID().toString()))
                .setType(line.type)
                // Commands with one key are carried out in order.
                .setKey(requireNonNullElse(line.key, ""))
                .setPayload(ByteString.copyFromUtf8(requireNonNullElse(line.payload, "")));
        var request = SendCommandRequest.newBuilder()
                .setCommand(command)
                .setWait(Duration.newBuilder().setSeconds(10))
                .build();
        var execution = patient(service).sendCommand(request).getExecution();
        while (!execution.hasEndTime()) {
            // The same id again is the same command: it runs once.
            execution = patient(service).sendCommand(request).getExecution();
        }
        if (execution.getState() == CommandState.COMMAND_STATE_SUCCEEDED) {
            Client.emit(Map.of("result", execution.getResult().toStringUtf8()));
        } else {
            Client.emit(Map.of("state", execution.getState(), "failure", execution.getFailure().getCode()));
        }
    }

    /**
     * Carries out commands of the type {@code <bucket>.put}: the payload, a number, is put under the command's key.
     */
    void handle(String bucket) {
        String type = bucket + ".put";
        var keyValues = new KeyValues(connection, bucket);
        var request = HandleCommandsRequest.newBuilder().addTypes(type).setHandler("java").build();
        connection.keepOpen(() -> service.handleCommands(request), HandleCommandsResponse::getGoaway, event -> {
            if (event.hasStarted()) {
                Client.emit(Map.of("handling", type));
            } else if (event.hasDelivery()) {
                var completion = carryOut(keyValues, event.getDelivery().getCommand());
                completion.setAckId(event.getDelivery().getAckId());
                settle(() -> patient(service).completeCommand(completion.build()));
            }
            return false;
        });
    }

    private static CompleteCommandRequest.Builder carryOut(KeyValues keyValues, Command command) {
        String payload = command.getPayload().toStringUtf8();
        double score;
        try {
            score = Double.parseDouble(payload);
            if (!Double.isFinite(score)) {
                throw new NumberFormatException();
            }
        } catch (NumberFormatException error) {
            return failed("NOT_A_NUMBER", "the payload is \"" + payload + '"');
        }
        try {
            // Should the command come again, the same is put again.
            long revision = keyValues.put(new KeyValues.Line(command.getKey(), payload, score));
            return CompleteCommandRequest.newBuilder()
                    .setResult(ByteString.copyFromUtf8(Long.toUnsignedString(revision)));
        } catch (StatusRuntimeException error) {
            if (isUnreachable(error)) {
                throw error;
            }
            return failed("PUT_REFUSED", error.getStatus().getDescription());
        }
    }

    /** The command has failed for good, and its sender is told why. */
    private static CompleteCommandRequest.Builder failed(String code, String message) {
        var failure = CommandFailure.newBuilder().setCode(code).setMessage(message);
        return CompleteCommandRequest.newBuilder().setFailure(failure);
    }
}
