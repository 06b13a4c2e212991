package ratings

import (
	"context"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

const (
	// parallel is how many users are read at once.
	parallel = 8
	// What grains send each other has arrived when two looks, so far apart, show the same; but the looking ends.
	lookPause = 200 * time.Millisecond
	mostLooks = 50
)

// Foretold reads what the users' grains say comes next, as product keys, the best first. It waits until nothing changes
// any more, for some seconds at most.
func Foretold(ctx context.Context, conn grpc.ClientConnInterface, users []uint32) (map[uint32][]string, error) {
	seqs, next, err := look(ctx, conn, users)
	for range mostLooks {
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		before := seqs
		if seqs, next, err = look(ctx, conn, users); err == nil && maps.Equal(seqs, before) {
			return next, nil
		}
	}
	return next, err
}

// Touched returns the first of the users whose grain has records already, and how many; 0 if there is none. What is learnt
// from ratings that others sent would be judged as if it were from the split.
func Touched(ctx context.Context, conn grpc.ClientConnInterface, users []uint32) (user uint32, records uint64, err error) {
	seqs, _, err := look(ctx, conn, users)
	for _, number := range users {
		if seqs[number] > 0 {
			return number, seqs[number], nil
		}
	}
	return 0, 0, err
}

// look reads each user once.
func look(ctx context.Context, conn grpc.ClientConnInterface, users []uint32) (seqs map[uint32]uint64, next map[uint32][]string, err error) {
	grains := granaryv1.NewGrainServiceClient(conn)
	answers := make([]*granaryv1.GetResponse, len(users))
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, number := range users {
		group.Go(func() (err error) {
			answers[i], err = grains.Get(limited, &granaryv1.GetRequest{
				Grain: UserKind + "/" + Key(number), Format: granaryv1.StateFormat_STATE_FORMAT_PROTOBUF,
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	seqs, next = map[uint32]uint64{}, map[uint32][]string{}
	for i, number := range users {
		var user userv1.User
		if err := user.UnmarshalVT(answers[i].GetState().GetValue()); err != nil {
			return nil, nil, fmt.Errorf("%s/%d: the state: %w", UserKind, number, err)
		}
		seqs[number], next[number] = answers[i].GetSeq(), user.GetNext()
	}
	return seqs, next, nil
}
