package example;

import columba.v1.Goaway;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractBlockingStub;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.function.Supplier;

import static java.util.concurrent.TimeUnit.SECONDS;

/** The channel to the server, and streams that are opened again when they break. */
final class Connection implements AutoCloseable {
    private static final long FIRST_DELAY_MS = 100;
    private static final long LONGEST_DELAY_MS = 5_000;

    /** gRPC itself sends short calls again when the server could not be reached. */
    private static final Map<String, ?> RETRIES = Map.of("methodConfig", List.of(Map.of(
            "name", List.of(Map.of()),
            "retryPolicy", Map.of(
                    "maxAttempts", 5.0,
                    "initialBackoff", "0.1s",
                    "maxBackoff", "5s",
                    "backoffMultiplier", 2.0,
                    "retryableStatusCodes", List.of("UNAVAILABLE", "UNKNOWN")))));

    final ManagedChannel channel;

    Connection() {
        String server = Optional.ofNullable(System.getenv("COLUMBA_SERVER")).orElse("127.0.0.1:7171");
        channel = Grpc.newChannelBuilder(server, InsecureChannelCredentials.create())
                .defaultServiceConfig(RETRIES)
                .enableRetry()
                // Notices a server that vanished without a word.
                .keepAliveTime(20, SECONDS)
                .build();
    }

    /** For a short call: wait for the server while it is away, but not longer. */
    static <S extends AbstractBlockingStub<S>> S patient(S stub) {
        return stub.withWaitForReady().withDeadlineAfter(30, SECONDS);
    }

    /** A connection that breaks at an unlucky moment is reported as UNKNOWN, which the server itself never says. */
    static boolean isUnreachable(StatusRuntimeException error) {
        Status.Code code = error.getStatus().getCode();
        return code == Status.Code.UNAVAILABLE || code == Status.Code.UNKNOWN;
    }

    /**
     * Hands each event of a stream to {@code handle}, until that returns true.
     *
     * <p>When the server goes away, whether the stream or a call in {@code handle} notices it, the stream is opened
     * again. What was not settled by then comes again.
     */
    <E> void keepOpen(Supplier<Iterator<E>> open, Function<E, Goaway> goaway, Predicate<E> handle) {
        long delay = FIRST_DELAY_MS;
        while (true) {
            var stream = Context.current().withCancellation();
            var before = stream.attach();
            try {
                for (var events = open.get(); events.hasNext(); ) {
                    E event = events.next();
                    // A server that shuts down says in a goaway when to come back.
                    var after = goaway.apply(event).getReconnectAfter();
                    delay = Math.max(FIRST_DELAY_MS, after.getSeconds() * 1_000 + after.getNanos() / 1_000_000);
                    if (handle.test(event)) {
                        return;
                    }
                }
            } catch (StatusRuntimeException error) {
                if (!isUnreachable(error)) {
                    throw error;
                }
                System.err.printf("%s: again in %d ms%n", error.getMessage(), delay);
            } finally {
                stream.detachAndCancel(before, null);
            }
            sleep(delay + ThreadLocalRandom.current().nextLong(delay / 2));
            channel.resetConnectBackoff();
            delay = Math.min(2 * delay, LONGEST_DELAY_MS);
        }
    }

    /** Makes an answer to the server that may come too late: then somebody else has the work, and that is all. */
    static void settle(Runnable call) {
        try {
            call.run();
        } catch (StatusRuntimeException error) {
            if (isUnreachable(error)) {
                throw error;
            }
            System.err.println("not settled: " + error.getMessage());
        }
    }

    private static void sleep(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            throw Status.CANCELLED.withCause(interrupted).asRuntimeException();
        }
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }
}
