// Command client is the example's command line; clients/README.md describes it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

const usage = `usage: client publish TOPIC                      messages from standard input
       client consume SUBSCRIPTION [COUNT]
       client send                               commands from standard input
       client ask                                queries from standard input
       client handle BUCKET
       client put BUCKET                         entries from standard input
       client top BUCKET [PREFIX [REVISION]]`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch {
	case command == "publish" && len(args) == 2:
		return eachLine(func(line messageLine) error { return publish(ctx, conn, args[1], line) })
	case command == "consume" && (len(args) == 2 || len(args) == 3):
		count, err := strconv.Atoi(argument(args, 2, "-1"))
		if err != nil {
			return err
		}
		return consume(ctx, conn, args[1], count)
	case command == "send" && len(args) == 1:
		return eachLine(func(line commandLine) error { return send(ctx, conn, line) })
	case command == "ask" && len(args) == 1:
		return eachLine(func(line queryLine) error { return ask(ctx, conn, line) })
	case command == "handle" && len(args) == 2:
		handlers, ctx := errgroup.WithContext(ctx)
		handlers.Go(func() error { return handleCommands(ctx, conn, args[1]) })
		handlers.Go(func() error { return handleQueries(ctx, conn, args[1]) })
		return handlers.Wait()
	case command == "put" && len(args) == 2:
		return eachLine(func(line entryLine) error { return putLine(ctx, conn, args[1], line) })
	case command == "top" && len(args) >= 2 && len(args) <= 4:
		return printTop(ctx, conn, args[1], argument(args, 2, ""), argument(args, 3, "0"))
	default:
		return errors.New(usage)
	}
}

func argument(args []string, index int, otherwise string) string {
	if index < len(args) {
		return args[index]
	}
	return otherwise
}

// putLine puts one entry, and prints its revision.
func putLine(ctx context.Context, conn *grpc.ClientConn, bucket string, line entryLine) error {
	revision, err := put(ctx, conn, bucket, line)
	if err == nil {
		emit(map[string]any{"revision": revision})
	}
	return err
}

// printTop prints the highest entries.
func printTop(ctx context.Context, conn *grpc.ClientConn, bucket, prefix, revision string) error {
	minRevision, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return err
	}
	entries, _, err := top(ctx, conn, bucket, prefix, minRevision)
	for _, entry := range entries {
		emit(entry)
	}
	return err
}

// eachLine reads JSON lines from standard input.
func eachLine[L any](do func(L) error) error {
	for decoder := json.NewDecoder(os.Stdin); decoder.More(); {
		var line L
		if err := decoder.Decode(&line); err != nil {
			return err
		}
		if err := do(line); err != nil {
			return err
		}
	}
	return nil
}

// emit prints a JSON line.
func emit(value any) {
	if err := json.NewEncoder(os.Stdout).Encode(value); err != nil {
		panic(err) // Nobody reads the output any more.
	}
}
