package judge

import "slices"

// Rule is the name of something that holds in every correct cluster.
type Rule string

// The rules on the lists of a grain. "List" is what a read showed, or the final one.
const (
	// Twice: a value is in a list once at most.
	Twice Rule = "twice"
	// Nowhere: each value of a list was appended to that grain by somebody.
	Nowhere Rule = "nowhere"
	// FailedApplied: a value whose append surely failed is in no list.
	FailedApplied Rule = "failed-applied"
	// Early: a value is in no list that was read before its append began.
	Early Rule = "early"
	// Lost: an acknowledged value is in every list whose read began later, unless it was a stale one, and in the final list.
	Lost Rule = "lost"
	// Forked: of any two lists of a grain, one is the beginning of the other. Stale reads too show what once was.
	Forked Rule = "forked"
	// Shrunk: a list is not shorter than one that was read before its read began, unless it is a stale one.
	Shrunk Rule = "shrunk"
	// Overtaken: an append that began after another was acknowledged stands behind it.
	Overtaken Rule = "overtaken"
	// ProducerOrder: the values of a producer stand in its order.
	ProducerOrder Rule = "producer-order"
)

// The rules on what grains send each other, all on the final states.
const (
	// Sends: each value with a target that is in a final list was received there once, and nothing else was received.
	Sends Rule = "sends"
	// SendOrder: what one grain sent to another was received in the order of its list.
	SendOrder Rule = "send-order"
	// Balances: a balance is what was received less what was sent, and all balances together are 0.
	Balances Rule = "balances"
)

// The rules on questions. A question is known by its value, and may be put several times.
const (
	// Replied: the reply to a question is that of the probe that was asked, and has its value.
	Replied Rule = "replied"
	// OneReply: all replies to one question are the same, and those to two questions are not.
	OneReply Rule = "one-reply"
	// ReplyOrder: a reply that was shown before another question began is before that one's, if one probe gave both.
	ReplyOrder Rule = "reply-order"
	// Counted: probes have taken the questions that they were asked, and given the replies, each once.
	Counted Rule = "counted"
)

// The rules on reminders.
const (
	// Fired: a reminder that was set and not forgotten fired, once if it does not repeat; and nothing else fired.
	Fired Rule = "fired"
	// Punctual: no reminder fired before it was due, by the time of the journal.
	Punctual Rule = "punctual"
)

// The rules on subscribers.
const (
	// SeenOnce: a subscriber sees nothing twice, however often it had to begin again.
	SeenOnce Rule = "seen-once"
	// SeenAll: a subscriber sees all that is in the journal.
	SeenAll Rule = "seen-all"
	// SeenOrder: a subscriber sees nothing that is not in the journal, and all of a shard in the order of the journal.
	SeenOrder Rule = "seen-order"
	// Announced: an acknowledged announcement is in the stream once, and one that failed is not.
	Announced Rule = "announced"
)

var rules = []Rule{
	Twice, Nowhere, FailedApplied, Early, Lost, Forked, Shrunk, Overtaken, ProducerOrder, Sends, SendOrder, Balances,
	Replied, OneReply, ReplyOrder, Counted, Fired, Punctual, SeenOnce, SeenAll, SeenOrder, Announced,
}

var docs = map[Rule]string{
	Twice:         "a value is in a list once at most",
	Nowhere:       "each value of a list was appended to that grain by somebody",
	FailedApplied: "a value whose append surely failed is in no list",
	Early:         "a value is in no list that was read before its append began",
	Lost:          "an acknowledged value is in every list read later, and in the final one",
	Forked:        "of any two lists of a grain, one is the beginning of the other",
	Shrunk:        "a list is not shorter than one that was read before",
	Overtaken:     "an append that began after another was acknowledged stands behind it",
	ProducerOrder: "the values of a producer stand in its order",
	Sends:         "what was sent was received once, and nothing else was",
	SendOrder:     "what one grain sent to another was received in that order",
	Balances:      "balances are what was received less what was sent, and sum to 0",
	Replied:       "a reply has the value of its question, and is of the probe that was asked",
	OneReply:      "one question has one reply, and no two have the same",
	ReplyOrder:    "a reply that was shown before another question began is before that one's",
	Counted:       "probes count each question that they were asked, and each reply, once",
	Fired:         "a reminder that was set and not forgotten fired once, and nothing else did",
	Punctual:      "no reminder fired before it was due",
	SeenOnce:      "a subscriber sees nothing twice",
	SeenAll:       "a subscriber sees all that is in the journal",
	SeenOrder:     "a subscriber sees what is in the journal, in its order",
	Announced:     "an acknowledged announcement is in the stream once, and one that failed is not",
}

// Rules are all of them.
func Rules() []Rule { return slices.Clone(rules) }

// Doc is the rule in a sentence.
func (r Rule) Doc() string { return docs[r] }
