package main

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc"

	columbav1 "example.com/columba/gen/columba/v1"
)

// entryLine is an entry of a bucket as a JSON line; not each has a score.
type entryLine struct {
	Key   string   `json:"key"`
	Value string   `json:"value"`
	Score *float64 `json:"score"`
}

// put returns the revision of the write.
func put(ctx context.Context, conn *grpc.ClientConn, bucket string, entry entryLine) (uint64, error) {
	answer, err := call(ctx, columbav1.NewKeyValueServiceClient(conn).Put, &columbav1.PutRequest{
		Bucket: bucket,
		Key:    entry.Key,
		Value:  []byte(entry.Value),
		Score:  entry.Score,
		// Makes it safe to send again.
		Id: rand.Text(),
	})
	return answer.GetRevision(), err
}

// top returns the five highest entries with a prefix, as of a revision or later, and the revision that they are of.
func top(
	ctx context.Context,
	conn *grpc.ClientConn,
	bucket, prefix string,
	revision uint64,
) ([]entryLine, uint64, error) {
	page, err := call(ctx, columbav1.NewKeyValueServiceClient(conn).ListEntries, &columbav1.ListEntriesRequest{
		Bucket:      bucket,
		Prefix:      prefix,
		OrderBy:     "score desc",
		PageSize:    5,
		MinRevision: revision,
	})
	entries := make([]entryLine, 0, 5)
	for _, entry := range page.GetEntries() {
		entries = append(entries, entryLine{Key: entry.Key, Value: string(entry.Value), Score: entry.Score})
	}
	return entries, page.GetRevision(), err
}
