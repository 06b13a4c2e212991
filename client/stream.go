package client

import (
	"context"

	"github.com/granary-dev/granary/client/session"
	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// stream is one PublishStream call, with a goroutine that sends and one that receives. Both end by themselves when the
// call does, and the producer's Close waits for them.
type stream struct {
	cancel context.CancelFunc
	// out has room for all that may be unanswered, so that handing over never waits.
	out chan *granaryv1.PublishStreamRequest
}

func (p *Producer) openStream(epoch uint64) *stream {
	ctx, cancel := context.WithCancel(p.ctx)
	s := &stream{cancel: cancel, out: make(chan *granaryv1.PublishStreamRequest, p.options.Window)}
	p.tasks.Go(func() {
		defer cancel()
		call, err := p.client.PublishStream(ctx)
		if err != nil {
			p.tell(ctx, session.Lost{Epoch: epoch, Err: err})
			return
		}
		p.tasks.Go(func() {
			defer cancel()
			p.receive(ctx, call, epoch)
		})
		for {
			select {
			case request := <-s.out:
				// Why sending failed is told to the receiver.
				if call.Send(request) != nil {
					<-ctx.Done()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return s
}

func (p *Producer) receive(ctx context.Context, call granaryv1.EventService_PublishStreamClient, epoch uint64) {
	for {
		response, err := call.Recv()
		if err != nil {
			p.tell(ctx, session.Lost{Epoch: epoch, Err: err})
			return
		}
		if !p.tell(ctx, session.Received{Epoch: epoch, Response: response}) {
			return
		}
	}
}

// tell hands something to run, unless the stream was left in the meantime.
func (p *Producer) tell(ctx context.Context, in session.Input) bool {
	select {
	case p.incoming <- in:
		return true
	case <-ctx.Done():
		return false
	}
}
