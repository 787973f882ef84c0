package main

import (
	"context"
	"log"

	"google.golang.org/grpc"

	columbav1 "example.com/columba/gen/columba/v1"
)

// consume works on the messages of a subscription; on so many, unless count is negative.
func consume(ctx context.Context, conn *grpc.ClientConn, subscription string, count int) error {
	subscriber := columbav1.NewSubscriberServiceClient(conn)
	request := &columbav1.SubscribeRequest{
		Target:   &columbav1.SubscribeRequest_Subscription{Subscription: subscription},
		Consumer: "go",
		// No more than this is on its way to this consumer, or with it, at once.
		MaxOutstandingMessages: 100,
	}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[columbav1.SubscribeResponse], error) {
		return subscriber.Subscribe(ctx, request)
	}
	consumed := 0
	return keepOpen(ctx, open, func(ctx context.Context, event *columbav1.SubscribeResponse) error {
		deliveries := event.GetBatch().GetDeliveries()
		if len(deliveries) == 0 {
			return nil
		}
		ack := &columbav1.AckRequest{Subscription: subscription}
		for _, delivery := range deliveries {
			work(delivery)
			ack.AckIds = append(ack.AckIds, delivery.AckId)
		}
		answer, err := call(ctx, subscriber.Ack, ack)
		if err != nil {
			return err
		}
		// Now that this is answered, no crash brings the messages back.
		for _, failure := range answer.Failures {
			log.Printf("not acknowledged: %v", failure.Reason)
		}
		if consumed += len(deliveries); count >= 0 && consumed >= count {
			return errDone
		}
		return nil
	})
}

// work prints a message. After a fault it may come again: doing it twice must do no harm.
func work(delivery *columbav1.Delivery) {
	stored := delivery.Message
	message := stored.Message
	emit(struct {
		Topic   string `json:"topic"`
		Offset  uint64 `json:"offset"`
		Attempt uint32 `json:"attempt"`
		messageLine
	}{stored.Topic, stored.Offset, delivery.Attempt, messageLine{message.Id, message.Key, message.Attributes, message.Data}})
}
