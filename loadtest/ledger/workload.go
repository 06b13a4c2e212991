package ledger

import granaryv1 "github.com/granary-dev/granary/proto/granary/v1"

// workload is what the check has to know of what was sent. Events go to owners, who pass what they fold on to partners.
type workload interface {
	words() words
	// identify says which event a record is of, as [Note.id] does: by its id and type. It is false for what cannot have
	// been sent.
	identify(r *granaryv1.HistoryRecord) (id uint64, ok bool)
	// describe names an event.
	describe(n *Note) string
	// newOwner begins the recount of an owner. newPartner is called with the key of a partner, when all owners are read.
	newOwner() ownerRecount
	newPartner(key string) partnerRecount
	// numbers notes how many grains were looked at.
	numbers(r *Report, owners, partners int)
}

// words that a workload is spoken of in.
type words struct {
	owner, partner string // their kinds
	things, unit   string // what is passed on, and what its value is counted in
	passedType     string // of the event by which it is
}

// unmarshaler is a state to read into.
type unmarshaler interface{ UnmarshalVT([]byte) error }

// recount is what both sides have in common.
type recount interface {
	// read takes the payload of a record.
	read(r *granaryv1.HistoryRecord) error
	// state to be read; it is compared by wrong, which says what the grain holds and what was recounted, or nothing if
	// that is the same.
	state() unmarshaler
	wrong() string
}

// ownerRecount is what the records of an owner add up to.
type ownerRecount interface {
	recount
	// altered says in what way what was read differs from what was sent.
	altered(sent *Note) string
	// fold counts what was read, by what was sent if that is known, and says what is passed on, and to whom.
	fold(r *granaryv1.HistoryRecord, sent *Note) (partner string, value int64, ok bool)
	// settle is called when all is read, by one owner at a time.
	settle()
}

// partnerRecount is what the records of a partner add up to.
type partnerRecount interface {
	recount
	// fold counts what was read and says its value. looked is whether the owner that passed it on was looked at.
	fold(looked bool) (value int64)
}
