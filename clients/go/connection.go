package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	columbav1 "example.com/columba/gen/columba/v1"
)

const (
	firstDelay   = 100 * time.Millisecond
	longestDelay = 5 * time.Second
	// callTimeout bounds a short call, the wait for a server that is away included.
	callTimeout = 30 * time.Second
)

// retries has gRPC itself send short calls again when the server could not be reached, and wait for a server that is
// away.
const retries = `{"methodConfig": [{
	"name": [{}],
	"retryPolicy": {
		"maxAttempts": 5,
		"initialBackoff": "0.1s",
		"maxBackoff": "5s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

func connect() (*grpc.ClientConn, error) {
	server := cmp.Or(os.Getenv("COLUMBA_SERVER"), "127.0.0.1:7171")
	return grpc.NewClient(server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: firstDelay, Multiplier: 2, Jitter: 0.2, MaxDelay: longestDelay},
		}),
		// Notices a server that vanished without a word.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}),
	)
}

// call makes a short call.
func call[Q, A any](
	ctx context.Context,
	method func(context.Context, *Q, ...grpc.CallOption) (*A, error),
	request *Q,
) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return method(ctx, request, grpc.WaitForReady(true))
}

// errDone ends keepOpen.
var errDone = errors.New("done")

// keepOpen hands each event of a stream to handle, until that returns errDone.
//
// When the server goes away, whether the stream or a call in handle notices it, the stream is opened again. What was
// not settled by then comes again.
func keepOpen[E any, P interface {
	*E
	GetGoaway() *columbav1.Goaway
}](
	ctx context.Context,
	open func(context.Context) (grpc.ServerStreamingClient[E], error),
	handle func(context.Context, P) error,
) error {
	delay := firstDelay
	for {
		err := readAll(ctx, open, func(ctx context.Context, event P) error {
			// A server that shuts down says in a goaway when to come back.
			delay = max(firstDelay, event.GetGoaway().GetReconnectAfter().AsDuration())
			return handle(ctx, event)
		})
		switch {
		case errors.Is(err, errDone):
			return nil
		case status.Code(err) != codes.Unavailable && !errors.Is(err, io.EOF):
			return err
		}
		log.Printf("%v: again in %v", err, delay)
		select {
		case <-time.After(delay + rand.N(delay/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
		delay = min(2*delay, longestDelay)
	}
}

// readAll reads one stream until it or handle fails, and ends it.
func readAll[E any, P interface{ *E }](
	ctx context.Context,
	open func(context.Context) (grpc.ServerStreamingClient[E], error),
	handle func(context.Context, P) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := handle(ctx, event); err != nil {
			return err
		}
	}
}

// settled passes over the error of an answer to the server that came too late: somebody else has the work then.
func settled(err error) error {
	if err == nil || status.Code(err) == codes.Unavailable {
		return err
	}
	log.Printf("not settled: %v", err)
	return nil
}
