package main

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	columbav1 "example.com/columba/gen/columba/v1"
)

// queryLine is a query as a JSON line.
type queryLine struct {
	Type     string `json:"type"`
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
}

func ask(ctx context.Context, conn *grpc.ClientConn, line queryLine) error {
	request := &columbav1.QueryRequest{
		Type: line.Type,
		Key:  line.Key,
		// The answer is no older than this: give the revision of a write to read what was written.
		MinRevision: line.Revision,
	}
	answer, err := call(ctx, columbav1.NewQueryServiceClient(conn).Query, request)
	if err == nil {
		emit(map[string]any{"answer": json.RawMessage(answer.Payload), "revision": answer.Revision})
	}
	return err
}

// handleQueries answers queries of the type "<bucket>.top": the five highest entries whose keys begin with the
// query's key.
func handleQueries(ctx context.Context, conn *grpc.ClientConn, bucket string) error {
	service := columbav1.NewQueryServiceClient(conn)
	request := &columbav1.HandleQueriesRequest{Types: []string{bucket + ".top"}, Handler: "go"}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[columbav1.HandleQueriesResponse], error) {
		return service.HandleQueries(ctx, request)
	}
	return keepOpen(ctx, open, func(ctx context.Context, event *columbav1.HandleQueriesResponse) error {
		switch event := event.Event.(type) {
		case *columbav1.HandleQueriesResponse_Started:
			emit(map[string]any{"handling": bucket + ".top"})
		case *columbav1.HandleQueriesResponse_Delivery:
			answer := &columbav1.AnswerQueryRequest{QueryId: event.Delivery.QueryId}
			switch result, failure, err := answerQuery(ctx, conn, bucket, event.Delivery.Key); {
			case err != nil:
				return err
			case failure != nil:
				answer.Outcome = &columbav1.AnswerQueryRequest_Failure{Failure: failure}
			default:
				answer.Outcome = &columbav1.AnswerQueryRequest_Result{Result: result}
			}
			_, err := call(ctx, service.AnswerQuery, answer)
			return settled(err)
		}
		return nil
	})
}

// answerQuery finds the answer. A failure is for the asker; after an error, another handler is asked.
func answerQuery(
	ctx context.Context,
	conn *grpc.ClientConn,
	bucket, prefix string,
) (*columbav1.QueryResult, *columbav1.QueryFailure, error) {
	entries, revision, err := top(ctx, conn, bucket, prefix, 0)
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable:
		return nil, nil, err
	default:
		return nil, &columbav1.QueryFailure{Code: "TOP_REFUSED", Message: status.Convert(err).Message()}, nil
	}
	payload, err := json.Marshal(entries)
	return &columbav1.QueryResult{Payload: payload, ContentType: "application/json", Revision: revision}, nil, err
}
