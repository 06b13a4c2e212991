// Command cards is a small online service on Granary: it publishes card payments in order and exactly once, asks whether
// one more is allowed, asks an account what it usually does, and reads the alerts that came of it all. It needs a node:
//
//	granary dev &
//	go run ./examples/cards
//
// It imports the client and the messages, and nothing of the server.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/granary-dev/granary/client"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

func main() {
	target := flag.String("target", "127.0.0.1:7080", "HOST:PORT of a node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	conn, err := client.Dial(*target)
	if err == nil {
		err = run(ctx, os.Stdout, conn)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cards: %v\nnext: granary dev --listen %s\n", err, *target)
		os.Exit(1)
	}
}

// run does each thing once and says what came of it.
func run(ctx context.Context, out io.Writer, conn grpc.ClientConnInterface) error {
	now := time.Now()
	card := fmt.Sprintf("cards-%d", now.UnixNano()) // a new one each time
	if err := pay(ctx, out, conn, card, now); err != nil {
		return fmt.Errorf("paying: %w", err)
	}
	if err := authorize(ctx, out, conn, card); err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	if err := profile(ctx, out, conn, card); err != nil {
		return fmt.Errorf("the profile: %w", err)
	}
	if err := alerts(ctx, out, conn, card); err != nil {
		return fmt.Errorf("the alerts: %w", err)
	}
	return nil
}

// pay publishes thirty small payments, one a day, and then a huge one somewhere else. A producer numbers its events: what is
// sent again over a new connection is not counted again, and the order stays.
func pay(ctx context.Context, out io.Writer, conn grpc.ClientConnInterface, card string, now time.Time) error {
	producer, err := client.NewProducer(conn, client.ProducerOptions{})
	if err != nil {
		return err
	}
	defer producer.Close()
	refused := 0
	for day := range 31 {
		e := &accountv1.Charged{TransactionId: fmt.Sprint("t-", day), Merchant: "corner-shop", AmountCents: 2_000 + int64(day)*10}
		if day == 30 {
			e.Merchant, e.AmountCents = "far-away", 900_000
		}
		payload, err := proto.Marshal(e)
		if err != nil {
			return err
		}
		err = producer.Publish(ctx, &granaryv1.Event{
			Grain: "account/" + card, Type: "Charged", Time: timestamppb.New(now.AddDate(0, 0, day-30)),
			Payload: &granaryv1.Event_Protobuf{Protobuf: payload},
		}, func(r client.Result) {
			if r.Err != nil {
				refused++
			}
		})
		if err != nil {
			return err
		}
	}
	if err := producer.Flush(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "31 payments of account/%s are durable, %d refused\n", card, refused)
	return nil
}

// authorize asks for a decision that takes the account and its merchant. The reply comes after both have been committed.
func authorize(ctx context.Context, out io.Writer, conn grpc.ClientConnInterface, card string) error {
	var d accountv1.Decision
	if _, err := client.Ask(ctx, conn, "account/"+card, &accountv1.Authorize{TransactionId: "next", Merchant: "corner-shop", AmountCents: 2_500}, &d); err != nil {
		return err
	}
	fmt.Fprintf(out, "another 25.00 at the corner shop: approved %t, score %d\n", d.GetApproved(), d.GetScore())
	return nil
}

// profile asks a question, which changes nothing.
func profile(ctx context.Context, out io.Writer, conn grpc.ClientConnInterface, card string) error {
	var p accountv1.ProfileReply
	if _, err := client.Query(ctx, conn, "account/"+card, &accountv1.Profile{}, &p); err != nil {
		return err
	}
	fmt.Fprintf(out, "it paid %d times, %d.%02d on average\n", p.GetCount(), p.GetMeanCents()/100, p.GetMeanCents()%100)
	return nil
}

// alerts reads what was published of this card, from the beginning to the present.
func alerts(ctx context.Context, out io.Writer, conn grpc.ClientConnInterface, card string) error {
	s := client.Subscribe(ctx, conn, &granaryv1.SubscribeRequest{
		Source:    &granaryv1.SubscribeRequest_Stream{Stream: "fraud.alerts"},
		From:      &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING},
		KeyPrefix: card, UntilLive: true, Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
	})
	defer s.Close()
	n := 0
	for item, err := range s.Items() {
		if err != nil {
			return err
		}
		var a accountv1.Alert
		if err := a.UnmarshalVT(item.GetMessage().GetPayloadProtobuf()); err != nil {
			return err
		}
		n++
		fmt.Fprintf(out, "alert: %s of %s, score %d, because of %v\n", a.GetTransactionId(), item.GetGrain(), a.GetScore(), a.GetReasons())
	}
	fmt.Fprintf(out, "%d in all\n", n)
	return nil
}
