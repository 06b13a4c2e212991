package client_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/granary-dev/granary/client"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Every alert since the beginning, and then each as it comes, until Ctrl-C. Lost connections are made again.
func ExampleSubscribe() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	conn, err := client.Dial("127.0.0.1:7080")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	alerts := client.Subscribe(ctx, conn, &granaryv1.SubscribeRequest{
		Source: &granaryv1.SubscribeRequest_Stream{Stream: "fraud.alerts"},
		From:   &granaryv1.SubscribeRequest_Start{Start: granaryv1.SubscribeStart_SUBSCRIBE_START_BEGINNING},
		Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
	})
	for item, err := range alerts.Items() {
		if err != nil {
			fmt.Println(err)
			break
		}
		var alert accountv1.Alert
		if err := alert.UnmarshalVT(item.GetMessage().GetPayloadProtobuf()); err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(item.GetGrain(), alert.GetTransactionId(), alert.GetScore())
	}
	fmt.Println("go on from", alerts.Position())
}
