package example;

import columba.v1.AnswerQueryRequest;
import columba.v1.HandleQueriesRequest;
import columba.v1.HandleQueriesResponse;
import columba.v1.QueryFailure;
import columba.v1.QueryRequest;
import columba.v1.QueryResult;
import columba.v1.QueryServiceGrpc;
import columba.v1.QueryServiceGrpc.QueryServiceBlockingStub;
import com.google.gson.Gson;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import io.grpc.StatusRuntimeException;
import java.util.Map;

import static example.Connection.isUnreachable;
import static example.Connection.patient;
import static example.Connection.settle;
import static java.util.Objects.requireNonNullElse;

/** Asks queries, and answers them. */
final class Queries {
    /** A query as a JSON line. */
    record Line(String type, String key, long revision) {}

    private final Connection connection;
    private final QueryServiceBlockingStub service;

    Queries(Connection connection) {
        this.connection = connection;
        this.service = QueryServiceGrpc.newBlockingStub(connection.channel);
    }

    void ask(Line line) {
        var request = QueryRequest.newBuilder()
                .setType(line.type)
                .setKey(requireNonNullElse(line.key, ""))
                // The answer is no older than this: give the revision of a write to read what was written.
                .setMinRevision(line.revision)
                .build();
        var answer = patient(service).query(request);
        var entries = JsonParser.parseString(answer.getPayload().toStringUtf8());
        Client.emit(Map.of("answer", entries, "revision", answer.getRevision()));
    }

    /**
     * Answers queries of the type {@code <bucket>.top}: the five highest entries whose keys begin with the query's key.
     */
    void handle(String bucket) {
        String type = bucket + ".top";
        var keyValues = new KeyValues(connection, bucket);
        var request = HandleQueriesRequest.newBuilder().addTypes(type).setHandler("java").build();
        connection.keepOpen(() -> service.handleQueries(request), HandleQueriesResponse::getGoaway, event -> {
            if (event.hasStarted()) {
                Client.emit(Map.of("handling", type));
            } else if (event.hasDelivery()) {
                var answer = answer(keyValues, event.getDelivery().getKey());
                answer.setQueryId(event.getDelivery().getQueryId());
                settle(() -> patient(service).answerQuery(answer.build()));
            }
            return false;
        });
    }

    private static AnswerQueryRequest.Builder answer(KeyValues keyValues, String prefix) {
        try {
            var top = keyValues.top(prefix, 0);
            return AnswerQueryRequest.newBuilder().setResult(QueryResult.newBuilder()
                    .setPayload(ByteString.copyFromUtf8(new Gson().toJson(top.entries())))
                    .setContentType("application/json")
                    .setRevision(top.revision()));
        } catch (StatusRuntimeException error) {
            if (isUnreachable(error)) {
                throw error;
            }
            String message = error.getStatus().getDescription();
            return AnswerQueryRequest.newBuilder()
                    .setFailure(QueryFailure.newBuilder().setCode("TOP_REFUSED").setMessage(message));
        }
    }
}
