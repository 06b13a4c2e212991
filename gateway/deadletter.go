package gateway

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/grpc"

	"github.com/granary-dev/granary/actors"
	"github.com/granary-dev/granary/gateway/answer"
	"github.com/granary-dev/granary/gateway/intake"
	"github.com/granary-dev/granary/grains"
	"github.com/granary-dev/granary/persistence/entry"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// maxReason is how much of the reason of a dead letter a list shows, in bytes. All of it is in the dead letter itself.
const maxReason = 512

// registerDeadLetters puts the DeadLetterService on the gRPC server.
func (g *Gateway) registerDeadLetters(s *grpc.Server) {
	letters := granaryv1.DeadLetterService_ServiceDesc
	letters.HandlerType = nil
	letters.Methods = []grpc.MethodDesc{
		unary(g, "List", listDeadLettersMethod, g.listDeadLetters),
		unary(g, "Get", getDeadLetterMethod, g.getDeadLetter),
		unary(g, "Retry", retryMethod, g.retry),
		unary(g, "Drop", dropMethod, g.drop),
	}
	s.RegisterService(&letters, nil)
}

// deadLetterService is the same methods for Connect.
type deadLetterService struct{ g *Gateway }

func (s deadLetterService) List(ctx context.Context, req *connect.Request[granaryv1.DeadLetterServiceListRequest]) (*connect.Response[granaryv1.DeadLetterServiceListResponse], error) {
	return answered(served(ctx, s.g, listDeadLettersMethod, nil, req.Msg, s.g.listDeadLetters))
}

func (s deadLetterService) Get(ctx context.Context, req *connect.Request[granaryv1.DeadLetterServiceGetRequest]) (*connect.Response[granaryv1.DeadLetterServiceGetResponse], error) {
	return answered(served(ctx, s.g, getDeadLetterMethod, nil, req.Msg, s.g.getDeadLetter))
}

func (s deadLetterService) Retry(ctx context.Context, req *connect.Request[granaryv1.RetryRequest]) (*connect.Response[granaryv1.RetryResponse], error) {
	return answered(served(ctx, s.g, retryMethod, nil, req.Msg, s.g.retry))
}

func (s deadLetterService) Drop(ctx context.Context, req *connect.Request[granaryv1.DropRequest]) (*connect.Response[granaryv1.DropResponse], error) {
	return answered(served(ctx, s.g, dropMethod, nil, req.Msg, s.g.drop))
}

// letterNamed checks the name of a dead letter and finds its shard. The kind need not be one that this cluster runs:
// events for kinds that are not there are dead letters too.
func (g *Gateway) letterNamed(tenant, grain string, seq uint64) (ref grains.Ref, shard uint64, err error) {
	if tenant != "" {
		return ref, 0, noTenants()
	}
	if ref, err = grains.ParseRef(grain); err != nil {
		return ref, 0, answer.Invalid(answer.InvalidGrain, "grain", "%v", err)
	}
	if seq == 0 {
		return ref, 0, answer.Invalid(answer.InvalidSeq, "seq", "it is missing; the first record of a grain has seq 1")
	}
	return ref, g.router.Table().Shard("", ref.Kind, ref.Key), nil
}

// getDeadLetter is DeadLetterService.Get.
func (g *Gateway) getDeadLetter(ctx context.Context, req *granaryv1.DeadLetterServiceGetRequest) (*granaryv1.DeadLetterServiceGetResponse, error) {
	ref, shard, err := g.letterNamed(req.GetTenant(), req.GetGrain(), req.GetSeq())
	if err != nil {
		return nil, err
	}
	l := &actors.DeadLetter{Kind: ref.Kind, Key: ref.Key, Seq: req.GetSeq()}
	if err := g.read(ctx, shard, &actors.Read{DeadLetter: l}); err != nil {
		return nil, err
	}
	h, format := &actors.History{Lineage: l.Lineage}, granaryv1.StateFormat_STATE_FORMAT_PROTOBUF
	if kind, ok := g.opts.Catalog.Kind(ref.Kind); ok {
		h.Kind, format = kind, granaryv1.StateFormat_STATE_FORMAT_UNSPECIFIED
	}
	out := &granaryv1.DeadLetterServiceGetResponse{
		Grain: req.GetGrain(), Record: g.historyRecord(h, &l.Record, format), Open: l.Open, Settled: l.Settled, RetriedAs: l.RetriedAs,
	}
	if out.SizeVT() > maxPageBytes {
		out.Record.Payload = nil // it is there as protobuf, which takes less
	}
	return out, nil
}

// retry is DeadLetterService.Retry.
func (g *Gateway) retry(ctx context.Context, req *granaryv1.RetryRequest) (*granaryv1.RetryResponse, error) {
	in, err := g.settle(ctx, req.GetTenant(), req.GetGrain(), req.GetSeq(), true)
	if err != nil {
		return nil, err
	}
	return &granaryv1.RetryResponse{Result: answer.Result(&in.Result, false)}, nil
}

// drop is DeadLetterService.Drop.
func (g *Gateway) drop(ctx context.Context, req *granaryv1.DropRequest) (*granaryv1.DropResponse, error) {
	if _, err := g.settle(ctx, req.GetTenant(), req.GetGrain(), req.GetSeq(), false); err != nil {
		return nil, err
	}
	return &granaryv1.DropResponse{}, nil
}

// settle asks the shard of a dead letter to settle it, and waits.
func (g *Gateway) settle(ctx context.Context, tenant, grain string, seq uint64, retry bool) (*actors.Settle, error) {
	ref, shard, err := g.letterNamed(tenant, grain, seq)
	if err != nil {
		return nil, err
	}
	if !g.gate.enter() {
		return nil, answer.Stopping()
	}
	defer g.gate.leave()
	done := make(chan struct{})
	in := &actors.Settle{Kind: ref.Kind, Key: ref.Key, Seq: seq, Retry: retry, Done: func(*actors.Settle) { close(done) }}
	if err := g.router.Settle(shard, in); err != nil {
		return nil, answer.Routing(err)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, answer.Routing(context.Cause(ctx))
	}
	if r := answer.Settle(in); r != nil {
		return nil, r
	}
	return in, nil
}

// listDeadLetters is DeadLetterService.List: the shards are asked for keys, and those that have some of the page for what
// these say.
func (g *Gateway) listDeadLetters(ctx context.Context, req *granaryv1.DeadLetterServiceListRequest) (*granaryv1.DeadLetterServiceListResponse, error) {
	if req.GetTenant() != "" {
		return nil, noTenants()
	}
	if req.GetKind() != "" {
		if _, err := grains.ParseRef(req.GetKind() + "/key"); err != nil {
			_, r := g.intake.Kind("kind", req.GetKind())
			return nil, r
		}
	}
	if p := req.GetPrefix(); !intake.Plain(p, grains.MaxKeyBytes) {
		return nil, answer.Invalid(answer.InvalidPrefix, "prefix", "it is not how a key can begin: at most %d bytes of UTF-8 without control characters", grains.MaxKeyBytes)
	} else if p != "" && req.GetKind() == "" {
		return nil, answer.Invalid(answer.InvalidPrefix, "prefix", "it is of keys of a kind: name the kind too")
	}
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	page := deadLetterPage{req.GetKind(), req.GetPrefix()}
	want := actors.DeadLetters{Kind: req.GetKind(), Prefix: req.GetPrefix(), Limit: limit + 1}
	if req.GetPageToken() != "" {
		if want.After, err = page.parse(req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	found, err := g.findDeadLetters(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && req.GetKind() != "" && req.GetPageToken() == "" {
		if _, r := g.intake.Kind("kind", req.GetKind()); r != nil {
			return nil, r // no kind, and no events for it either: more likely a slip
		}
	}
	out := &granaryv1.DeadLetterServiceListResponse{}
	if len(found) > limit {
		found = found[:limit]
		out.NextPageToken = page.token(found[limit-1])
	}
	out.DeadLetters, err = g.readDeadLetters(ctx, found)
	return out, err
}

// findDeadLetters asks all shards at once and merges what they have.
func (g *Gateway) findDeadLetters(ctx context.Context, want actors.DeadLetters) ([]actors.DeadLetterAt, error) {
	asked := map[uint64]*actors.DeadLetters{}
	for shard := uint64(1); shard <= uint64(g.router.Table().Len()); shard++ {
		l := want
		asked[shard] = &l
	}
	if err := g.askDeadLetters(ctx, asked); err != nil {
		return nil, err
	}
	var all []actors.DeadLetterAt
	for _, l := range asked {
		all = append(all, l.Found...)
	}
	slices.SortFunc(all, func(a, b actors.DeadLetterAt) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
	})
	return all[:min(len(all), want.Limit)], nil
}

// readDeadLetters reads what dead letters say, each from its shard.
func (g *Gateway) readDeadLetters(ctx context.Context, found []actors.DeadLetterAt) ([]*granaryv1.DeadLetter, error) {
	asked := map[uint64]*actors.DeadLetters{}
	shards := make([]uint64, len(found))
	for i, at := range found {
		shards[i] = g.router.Table().Shard("", at.Kind, at.Key)
		if asked[shards[i]] == nil {
			asked[shards[i]] = &actors.DeadLetters{}
		}
		asked[shards[i]].Read = append(asked[shards[i]].Read, at)
	}
	if err := g.askDeadLetters(ctx, asked); err != nil {
		return nil, err
	}
	out := make([]*granaryv1.DeadLetter, len(found))
	for i, at := range found {
		l := asked[shards[i]]
		sum := l.Summaries[0]
		l.Summaries = l.Summaries[1:]
		out[i] = &granaryv1.DeadLetter{
			Grain: at.Kind + "/" + at.Key, Seq: at.Seq, Position: answer.Position(entry.Position{Lineage: l.Lineage, Index: at.Index, Ordinal: at.Ordinal}), Time: moment(at.Time),
			Type: sum.Event, Reason: answer.Text(sum.Reason, maxReason), Sender: sum.Sender,
		}
	}
	return out, nil
}

// askDeadLetters asks some shards at once and waits for all.
func (g *Gateway) askDeadLetters(ctx context.Context, asked map[uint64]*actors.DeadLetters) error {
	type waiting struct {
		read *actors.Read
		done <-chan struct{}
	}
	var all []waiting
	for shard, l := range asked {
		r := &actors.Read{DeadLetters: l}
		done, err := g.ask(shard, r)
		if err != nil {
			return answer.Routing(err)
		}
		all = append(all, waiting{r, done})
	}
	for _, w := range all {
		if err := finished(ctx, w.read, w.done); err != nil {
			return err
		}
	}
	return nil
}

// deadLetterPage is what the pages of one list of dead letters have in common.
type deadLetterPage struct{ kind, prefix string }

const deadLetterToken = 'd'

func (p deadLetterPage) check() uint64 { return listPage(p).check() }

// token of the page behind a dead letter.
func (p deadLetterPage) token(last actors.DeadLetterAt) string {
	return seal(deadLetterToken, p.check(), binary.AppendUvarint([]byte(last.Kind+"/"+last.Key+"\x00"), last.Seq))
}

func (p deadLetterPage) parse(token string) (at actors.DeadLetterAt, err error) {
	place, ok := unseal(token, deadLetterToken, p.check())
	name, rest, cut := strings.Cut(string(place), "\x00")
	ref, err := grains.ParseRef(name)
	seq, n := binary.Uvarint([]byte(rest))
	if !ok || !cut || err != nil || n != len(rest) || !utf8.ValidString(name) || p.kind != "" && ref.Kind != p.kind {
		return at, badToken()
	}
	return actors.DeadLetterAt{Kind: ref.Kind, Key: ref.Key, Seq: seq}, nil
}
