package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	columbav1 "example.com/columba/gen/columba/v1"
)

// commandLine is a command as a JSON line.
type commandLine struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Key     string `json:"key"`
	Payload string `json:"payload"`
}

// send sends a command, and waits for its outcome.
func send(ctx context.Context, conn *grpc.ClientConn, line commandLine) error {
	request := &columbav1.SendCommandRequest{
		Command: &columbav1.Command{
			Id:   cmp.Or(line.ID, rand.Text()),
			Type: line.Type,
			// Commands with one key are carried out in order.
			Key:     line.Key,
			Payload: []byte(line.Payload),
		},
		Wait: durationpb.New(10 * time.Second),
	}
	for {
		// The same id again is the same command: it runs once.
		answer, err := call(ctx, columbav1.NewCommandServiceClient(conn).SendCommand, request)
		if err != nil {
			return err
		}
		execution := answer.Execution
		switch {
		case execution.EndTime == nil:
			continue
		case execution.State == columbav1.CommandState_COMMAND_STATE_SUCCEEDED:
			emit(map[string]any{"result": string(execution.Result)})
		default:
			emit(map[string]any{"state": execution.State.String(), "failure": execution.Failure.GetCode()})
		}
		return nil
	}
}

// handleCommands carries out commands of the type "<bucket>.put": the payload, a number, is put under the command's
// key.
func handleCommands(ctx context.Context, conn *grpc.ClientConn, bucket string) error {
	service := columbav1.NewCommandServiceClient(conn)
	request := &columbav1.HandleCommandsRequest{Types: []string{bucket + ".put"}, Handler: "go"}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[columbav1.HandleCommandsResponse], error) {
		return service.HandleCommands(ctx, request)
	}
	return keepOpen(ctx, open, func(ctx context.Context, event *columbav1.HandleCommandsResponse) error {
		switch event := event.Event.(type) {
		case *columbav1.HandleCommandsResponse_Started:
			emit(map[string]any{"handling": bucket + ".put"})
		case *columbav1.HandleCommandsResponse_Delivery:
			complete := &columbav1.CompleteCommandRequest{AckId: event.Delivery.AckId}
			switch result, failure, err := carryOut(ctx, conn, bucket, event.Delivery.Command); {
			case err != nil:
				return err
			case failure != nil:
				complete.Outcome = &columbav1.CompleteCommandRequest_Failure{Failure: failure}
			default:
				complete.Outcome = &columbav1.CompleteCommandRequest_Result{Result: result}
			}
			_, err := call(ctx, service.CompleteCommand, complete)
			return settled(err)
		}
		return nil
	})
}

// carryOut does what a command asks. A failure is for its sender; after an error, the command comes again.
func carryOut(
	ctx context.Context,
	conn *grpc.ClientConn,
	bucket string,
	command *columbav1.Command,
) ([]byte, *columbav1.CommandFailure, error) {
	score, err := strconv.ParseFloat(string(command.Payload), 64)
	if err != nil || math.IsNaN(score) || math.IsInf(score, 0) {
		message := fmt.Sprintf("the payload is %q", command.Payload)
		return nil, &columbav1.CommandFailure{Code: "NOT_A_NUMBER", Message: message}, nil
	}
	// Should the command come again, the same is put again.
	revision, err := put(ctx, conn, bucket, entryLine{Key: command.Key, Value: string(command.Payload), Score: &score})
	switch status.Code(err) {
	case codes.OK:
		return strconv.AppendUint(nil, revision, 10), nil, nil
	case codes.Unavailable:
		return nil, nil, err
	default:
		return nil, &columbav1.CommandFailure{Code: "PUT_REFUSED", Message: status.Convert(err).Message()}, nil
	}
}
