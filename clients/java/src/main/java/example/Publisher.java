package example;

import columba.v1.Message;
import columba.v1.PublishRequest;
import columba.v1.PublisherServiceGrpc;
import columba.v1.PublisherServiceGrpc.PublisherServiceBlockingStub;
import com.google.protobuf.ByteString;
import java.util.Base64;
import java.util.Map;
import java.util.UUID;

import static example.Connection.patient;
import static java.util.Objects.requireNonNullElse;
import static java.util.Objects.requireNonNullElseGet;

/** Publishes messages. */
final class Publisher {
    /** A message as a JSON line; the data is in base64. */
    record Line(String id, String key, Map<String, String> attributes, String data) {}

    private final PublisherServiceBlockingStub publisher;
    private final String topic;

    Publisher(Connection connection, String topic) {
        this.publisher = PublisherServiceGrpc.newBlockingStub(connection.channel);
        this.topic = topic;
    }

    void publish(Line line) {
        byte[] data = Base64.getDecoder().decode(requireNonNullElse(line.data, ""));
        var message = Message.newBuilder()
                // Sent again with the same id, a message is stored once.
                .setId(requireNonNullElseGet(line.id, () -> UUID.randomUUID().toString()))
                .setKey(requireNonNullElse(line.key, ""))
                .putAllAttributes(requireNonNullElse(line.attributes, Map.of()))
                .setData(ByteString.copyFrom(data))
                .build();
        var request = PublishRequest.newBuilder().setTopic(topic).addMessages(message).build();
        var receipt = patient(publisher).publish(request);
        // The message is on disk.
        boolean duplicate = receipt.getDuplicatesCount() > 0;
        long offset = duplicate ? receipt.getDuplicates(0).getOffset() : receipt.getFirstOffset();
        Client.emit(Map.of("offset", offset, "duplicate", duplicate));
    }
}
