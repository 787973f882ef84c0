package example;

import columba.v1.KeyValueServiceGrpc;
import columba.v1.KeyValueServiceGrpc.KeyValueServiceBlockingStub;
import columba.v1.ListEntriesRequest;
import columba.v1.PutRequest;
import com.google.protobuf.ByteString;
import java.util.List;
import java.util.UUID;

import static example.Connection.patient;

/** Puts entries into a bucket, and reads the highest. */
final class KeyValues {
    /** An entry as a JSON line; not each has a score. */
    record Line(String key, String value, Double score) {}

    /** Entries, and the revision that they are of. */
    record Top(List<Line> entries, long revision) {}

    private final KeyValueServiceBlockingStub keyValues;
    private final String bucket;

    KeyValues(Connection connection, String bucket) {
        this.keyValues = KeyValueServiceGrpc.newBlockingStub(connection.channel);
        this.bucket = bucket;
    }

    /** Returns the revision of the write. */
    long put(Line entry) {
        var put = PutRequest.newBuilder()
                .setBucket(bucket)
                .setKey(entry.key)
                .setValue(ByteString.copyFromUtf8(entry.value))
                // Makes it safe to send again.
                .setId(UUID.randomUUID().toString());
        if (entry.score != null) {
            put.setScore(entry.score);
        }
        return patient(keyValues).put(put.build()).getRevision();
    }

    /** The five highest entries with a prefix, as of a revision or later. */
    Top top(String prefix, long revision) {
        var page = patient(keyValues).listEntries(ListEntriesRequest.newBuilder()
                .setBucket(bucket)
                .setPrefix(prefix)
                .setOrderBy("score desc")
                .setPageSize(5)
                .setMinRevision(revision)
                .build());
        var entries = page.getEntriesList().stream()
                .map(entry -> new Line(entry.getKey(), entry.getValue().toStringUtf8(), entry.getScore()))
                .toList();
        return new Top(entries, page.getRevision());
    }
}
