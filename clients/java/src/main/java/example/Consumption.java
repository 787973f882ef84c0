package example;

import columba.v1.AckRequest;
import columba.v1.Delivery;
import columba.v1.SubscribeRequest;
import columba.v1.SubscribeResponse;
import columba.v1.SubscriberServiceGrpc;
import columba.v1.SubscriberServiceGrpc.SubscriberServiceBlockingStub;
import java.util.Base64;
import java.util.Map;

import static example.Connection.patient;

/** Consumes the messages of a subscription. */
final class Consumption {
    record Line(
            String topic,
            long offset,
            int attempt,
            String id,
            String key,
            Map<String, String> attributes,
            String data) {}

    private final Connection connection;
    private final SubscriberServiceBlockingStub subscriber;
    private final String subscription;
    private long consumed;

    Consumption(Connection connection, String subscription) {
        this.connection = connection;
        this.subscriber = SubscriberServiceGrpc.newBlockingStub(connection.channel);
        this.subscription = subscription;
    }

    /** Consumes so many messages, or all that will ever come if {@code count} is negative. */
    void consume(long count) {
        var request = SubscribeRequest.newBuilder()
                .setSubscription(subscription)
                .setConsumer("java")
                // No more than this is on its way to this consumer, or with it, at once.
                .setMaxOutstandingMessages(100)
                .build();
        connection.keepOpen(() -> subscriber.subscribe(request), SubscribeResponse::getGoaway, event -> {
            handle(event);
            return count >= 0 && consumed >= count;
        });
    }

    private void handle(SubscribeResponse event) {
        var deliveries = event.getBatch().getDeliveriesList();
        if (deliveries.isEmpty()) {
            return;
        }
        var ack = AckRequest.newBuilder().setSubscription(subscription);
        for (var delivery : deliveries) {
            work(delivery);
            ack.addAckIds(delivery.getAckId());
        }
        var answer = patient(subscriber).ack(ack.build());
        // Now that this is answered, no crash brings the messages back.
        for (var failure : answer.getFailuresList()) {
            System.err.println("not acknowledged: " + failure.getReason());
        }
        consumed += deliveries.size();
    }

    /** The work is to print it. After a fault a message may come again: doing it twice must do no harm. */
    private static void work(Delivery delivery) {
        var stored = delivery.getMessage();
        var message = stored.getMessage();
        Client.emit(new Line(
                stored.getTopic(),
                stored.getOffset(),
                delivery.getAttempt(),
                message.getId(),
                message.getKey(),
                message.getAttributesMap(),
                Base64.getEncoder().encodeToString(message.getData().toByteArray())));
    }
}
