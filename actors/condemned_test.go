package actors

import (
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/granary-dev/granary/grains"
)

// identityOf is the identity of an event.
func identityOf(kind, key, event string, payload []byte) Identity {
	s := &Shard{}
	s.rec.Payload = payload
	e := grains.Kind[*wrapperspb.StringValue]{Name: "k", Version: 1, Handlers: grains.Handlers[*wrapperspb.StringValue]{
		grains.On(func(*grains.Turn, *wrapperspb.StringValue, *wrapperspb.StringValue) error { return nil })}}.MustDefine().Events()[0]
	e.Name = event
	return s.identity(&activation{name: grains.Ref{Kind: kind, Key: key}}, e)
}

// nobody watches.
type nobody struct{ n int }

func (n *nobody) Begin(Identity, string, string, string) { n.n++ }
func (n *nobody) End()                                   { n.n++ }

// TestCondemned: an event is taken once; what was not committed is taken back, and what is committed is told and forgotten.
func TestCondemned(t *testing.T) {
	var none *Condemned
	none.lost()
	if got := none.landed(3, nil); got != nil {
		t.Errorf("nothing condemned, and landed: %v", got)
	}
	c := &Condemned{}
	a, b := identityOf("k", "a", "E", nil), identityOf("k", "a", "E", []byte("x"))
	if a == b || identityOf("ka", "", "E", nil) == identityOf("k", "a", "E", nil) {
		t.Fatal("different events have one identity")
	}
	c.Add(a, "why")
	take := func(want bool, index uint64) {
		t.Helper()
		if reason, is := c.take(a, index); is != want || is && reason != "why" {
			t.Fatalf("taken: %v %q, want %v", is, reason, want)
		}
	}
	if _, is := c.take(b, 1); is {
		t.Error("another event is taken")
	}
	take(true, 7)
	take(false, 8) // its like runs
	c.lost()
	take(true, 9)
	if got := c.landed(8, nil); got != nil {
		t.Errorf("landed too early: %v", got)
	}
	if got := c.landed(9, nil); len(got) != 1 || got[0] != a {
		t.Errorf("landed: %v", got)
	}
	take(false, 10)
}

// BenchmarkBeginTurn is what it costs to tell an event from others, before each turn.
func BenchmarkBeginTurn(b *testing.B) {
	s := &Shard{cfg: Config{Watch: &nobody{}, Condemned: &Condemned{}}}
	s.rec.Payload = make([]byte, 60)
	e := &grains.EventType{}
	e.Name = "granary.account.v1.Charged"
	a := &activation{name: grains.Ref{Kind: "account", Key: "card-123456"}}
	for b.Loop() {
		if err := s.beginTurn(a, e); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSuccessor: a confirmation that the machine before it asked for confirms no read of the next one.
func TestSuccessor(t *testing.T) {
	catalog, err := grains.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	s := NewShard(Config{Shard: 1, Shards: 1, Catalog: catalog, Watch: &nobody{}, Condemned: &Condemned{}})
	s.token, s.confirmed, s.Stats.Turns = 7, 5, 3
	n := s.Succeed(nil, &nobody{})
	if n.Leading() || n.Stats.Turns != 3 {
		t.Errorf("it leads %v, with %+v", n.Leading(), n.Stats)
	}
	n.confirmed = max(n.confirmed, 7) // comes late
	if token := n.token + 1; token <= n.confirmed {
		t.Errorf("its first read waits for confirmation %d and has %d", token, n.confirmed)
	}
}
