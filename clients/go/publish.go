package main

import (
	"cmp"
	"context"
	"crypto/rand"

	"google.golang.org/grpc"

	columbav1 "example.com/columba/gen/columba/v1"
)

// messageLine is a message as a JSON line; the data is in base64.
type messageLine struct {
	ID         string            `json:"id,omitempty"`
	Key        string            `json:"key,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Data       []byte            `json:"data,omitempty"`
}

func publish(ctx context.Context, conn *grpc.ClientConn, topic string, line messageLine) error {
	message := &columbav1.Message{
		// Sent again with the same id, a message is stored once.
		Id:         cmp.Or(line.ID, rand.Text()),
		Key:        line.Key,
		Attributes: line.Attributes,
		Data:       line.Data,
	}
	request := &columbav1.PublishRequest{Topic: topic, Messages: []*columbav1.Message{message}}
	receipt, err := call(ctx, columbav1.NewPublisherServiceClient(conn).Publish, request)
	if err != nil {
		return err
	}
	// The message is on disk.
	offset, duplicate := receipt.FirstOffset, false
	if len(receipt.Duplicates) > 0 {
		offset, duplicate = receipt.Duplicates[0].Offset, true
	}
	emit(map[string]any{"offset": offset, "duplicate": duplicate})
	return nil
}
