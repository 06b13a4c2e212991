// Package client is the Go client of Granary: connections with the right settings, producers that publish in order and
// exactly once, and subscriptions that go on where they were.
//
// [Dial] gives a grpc connection for the generated clients of proto/granary/v1; [NewProducer] publishes over it, [Ask] and
// [Query] ask one grain, and [Subscribe] reads. What
// makes a producer right is decided in [github.com/granary-dev/granary/client/session], a machine without I/O; this
// package only runs it. It may import proto and grpc, and nothing that the server is made of.
//
// Invariant: every callback of an accepted event is called exactly once, and every item of a subscription returned exactly
// once and in order, whatever happens to connections and servers.
package client

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// ServiceConfig is the published retry policy, in gRPC's own form, for stock clients of any language: five attempts over
// about four seconds, for what did not happen or may be repeated. Publish and Ask are repeated safely only if every event
// has an id. Streams are not retried by gRPC: a [Producer] and a [Subscription] know how.
const ServiceConfig = `{
  "methodConfig": [{
    "name": [
      {"service": "granary.v1.EventService", "method": "Publish"},
      {"service": "granary.v1.EventService", "method": "Ask"},
      {"service": "granary.v1.GrainService"},
      {"service": "granary.v1.KindService"},
      {"service": "granary.v1.StreamService", "method": "List"}
    ],
    "retryPolicy": {
      "maxAttempts": 5,
      "initialBackoff": "0.1s",
      "maxBackoff": "5s",
      "backoffMultiplier": 3,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
}`

// Settings of a connection.
const (
	// maxAnswer is the largest answer taken: a page of 1,000 records may be long.
	maxAnswer = 64 << 20
	// streamWindow and connWindow are how many bytes may be on their way to this side.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// pingEvery and pingTimeout find a peer that is gone without saying so, while calls are open.
	pingEvery   = 20 * time.Second
	pingTimeout = 10 * time.Second
)

// Dial makes a connection to HOST:PORT, without waiting for it. It is not encrypted unless the options say so; options
// override what Dial sets.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(ServiceConfig),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec()), grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		// grpc's own pauses of up to two minutes would be felt long after a node has come back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)...)
}
