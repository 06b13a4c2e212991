package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/cluster/node"
	"github.com/granary-dev/granary/grains/catalog"
	accountv1 "github.com/granary-dev/granary/proto/granary/account/v1"
)

// BenchmarkPublish measures what a node does with the events of 4 producers, without the gateway: batches of 100 charges
// to 10,000 accounts and 10,000 merchants, so two turns an event.
func BenchmarkPublish(b *testing.B) {
	n, err := node.Start(context.Background(), node.Options{DataDir: b.TempDir(), Catalog: catalog.Builtin()})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	kind, _ := catalog.Builtin().Kind("account")
	typ, _ := kind.Event("Charged")
	const streams, batch, window = 4, 100, 64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	at := start.UnixNano()
	for s := range streams {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(1, uint64(s)))
			previous := make([]uint64, n.Table().Len()+1)
			slots := make(chan struct{}, window)
			sequence := uint64(0)
			for range b.N / streams / batch {
				slots <- struct{}{}
				parts := map[uint64]*actors.Batch{}
				for range batch {
					sequence++
					account := fmt.Sprintf("%d", rnd.IntN(10000))
					msg := &accountv1.Charged{TransactionId: fmt.Sprintf("%d-%d", s, sequence), Merchant: fmt.Sprintf("%d", rnd.IntN(10000)), AmountCents: 100 + rnd.Int64N(10000)}
					payload, _ := typ.Append(nil, msg)
					shard := n.Table().Shard("", "account", account)
					p := parts[shard]
					if p == nil {
						p = &actors.Batch{Link: &actors.Link{Producer: fmt.Sprintf("p%d", s), Epoch: 1, Previous: previous[shard]}}
						parts[shard] = p
					}
					p.Events = append(p.Events, actors.Event{Kind: kind, Key: account, Type: typ, Message: msg, Payload: payload, Time: at + int64(sequence)*1e6, Sequence: sequence})
					previous[shard] = sequence
				}
				var left sync.WaitGroup
				left.Add(len(parts))
				for shard, p := range parts {
					p.Done = func(p *actors.Batch) {
						if p.Refused != actors.Folded {
							b.Errorf("%v %s", p.Refused, p.Why)
						}
						left.Done()
					}
					if err := n.Publish(context.Background(), shard, p, true); err != nil {
						b.Error(err)
					}
				}
				go func() { left.Wait(); <-slots }()
			}
			for range window {
				slots <- struct{}{}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	st := n.Stats()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "events/s")
	b.ReportMetric(float64(st.Turns)/float64(max(1, st.Entries)), "turns/entry")
}

// BenchmarkHistory measures reading the whole history of one account after the other, in a store of 200,000 events of
// 5,000 accounts and 10,000 merchants.
func BenchmarkHistory(b *testing.B) {
	n, err := node.Start(context.Background(), node.Options{DataDir: b.TempDir(), Catalog: catalog.Builtin()})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	kind, _ := catalog.Builtin().Kind("account")
	typ, _ := kind.Event("Charged")
	rnd := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for i := range 200_000 {
		account := fmt.Sprintf("%d", rnd.IntN(5000))
		msg := &accountv1.Charged{TransactionId: fmt.Sprint(i), Merchant: fmt.Sprintf("%d", rnd.IntN(10000)), AmountCents: 1}
		payload, _ := typ.Append(nil, msg)
		wg.Add(1)
		p := &actors.Batch{Events: []actors.Event{{Kind: kind, Key: account, Type: typ, Message: msg, Payload: payload}}, Done: func(*actors.Batch) { wg.Done() }}
		if err := n.Publish(context.Background(), n.Table().Shard("", "account", account), p, true); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	b.ResetTimer()
	records := 0
	for i := range b.N {
		key := fmt.Sprint(i % 5000)
		h := &actors.History{Kind: kind, Key: key, Limit: 1000}
		done := make(chan struct{})
		if err := n.Read(n.Table().Shard("", "account", key), &actors.Read{History: h, Done: func(*actors.Read) { close(done) }}); err != nil {
			b.Fatal(err)
		}
		<-done
		records += len(h.Records)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
}
