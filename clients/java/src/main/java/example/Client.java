package example;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.function.Consumer;

import static java.nio.charset.StandardCharsets.UTF_8;

/** The example's command line; clients/README.md describes it. */
final class Client {
    private static final String USAGE = """
            usage: client publish TOPIC                      messages from standard input
                   client consume SUBSCRIPTION [COUNT]
                   client send                               commands from standard input
                   client ask                                queries from standard input
                   client handle BUCKET
                   client put BUCKET                         entries from standard input
                   client top BUCKET [PREFIX [REVISION]]""";

    private static final Gson GSON = new GsonBuilder().disableHtmlEscaping().create();
    // Whatever the locale says: JSON is UTF-8.
    private static final PrintStream OUT = new PrintStream(System.out, true, UTF_8);

    public static void main(String[] args) throws IOException {
        try (var connection = new Connection()) {
            run(connection, List.of(args));
        } catch (StatusRuntimeException | CompletionException | IllegalArgumentException error) {
            System.err.println("error: " + error.getMessage());
            System.exit(1);
        }
        System.exit(0);
    }

    private static void run(Connection connection, List<String> args) throws IOException {
        String command = args.isEmpty() ? "" : args.get(0);
        String name = argument(args, 1, null);
        if (command.equals("send")) {
            var commands = new Commands(connection);
            eachLine(Commands.Line.class, commands::send);
        } else if (command.equals("ask")) {
            var queries = new Queries(connection);
            eachLine(Queries.Line.class, queries::ask);
        } else if (command.equals("publish") && name != null) {
            var publisher = new Publisher(connection, name);
            eachLine(Publisher.Line.class, publisher::publish);
        } else if (command.equals("consume") && name != null) {
            new Consumption(connection, name).consume(Long.parseLong(argument(args, 2, "-1")));
        } else if (command.equals("handle") && name != null) {
            var commands = CompletableFuture.runAsync(() -> new Commands(connection).handle(name));
            var queries = CompletableFuture.runAsync(() -> new Queries(connection).handle(name));
            CompletableFuture.anyOf(commands, queries).join();
        } else if (command.equals("put") && name != null) {
            var keyValues = new KeyValues(connection, name);
            eachLine(KeyValues.Line.class, line -> emit(Map.of("revision", keyValues.put(line))));
        } else if (command.equals("top") && name != null) {
            long revision = Long.parseUnsignedLong(argument(args, 3, "0"));
            new KeyValues(connection, name).top(argument(args, 2, ""), revision).entries().forEach(Client::emit);
        } else {
            throw new IllegalArgumentException(USAGE);
        }
    }

    private static String argument(List<String> args, int index, String otherwise) {
        return index < args.size() ? args.get(index) : otherwise;
    }

    /** Reads JSON lines from standard input. */
    private static <L> void eachLine(Class<L> type, Consumer<L> handle) throws IOException {
        var lines = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            handle.accept(GSON.fromJson(line, type));
        }
    }

    /** Prints a JSON line. */
    static synchronized void emit(Object value) {
        OUT.println(GSON.toJson(value));
    }
}
