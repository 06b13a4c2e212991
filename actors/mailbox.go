package actors

import "github.com/asynkron/protoactor-go/actor"

// mailbox is the mailbox of an activation. Only the shard posts to it, one message at a time, from its own step, so it
// needs neither a queue nor a lock: what is posted is handled before the post returns. A turn cannot post to a grain,
// so nothing nests. It costs one allocation less and a tenth of the time of the library's unbounded mailbox. The shard
// keeps it and posts without the way through the registry of processes, which would look the actor up anew each time.
type mailbox struct{ invoker actor.MessageInvoker }

// PostUserMessage implements [actor.Mailbox].
func (m *mailbox) PostUserMessage(message any) { m.invoker.InvokeUserMessage(message) }

// PostSystemMessage implements [actor.Mailbox].
func (m *mailbox) PostSystemMessage(message any) { m.invoker.InvokeSystemMessage(message) }

// RegisterHandlers implements [actor.Mailbox].
func (m *mailbox) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	m.invoker = invoker
}

// Start implements [actor.Mailbox].
func (m *mailbox) Start() {}

// UserMessageCount implements [actor.Mailbox].
func (m *mailbox) UserMessageCount() int { return 0 }
