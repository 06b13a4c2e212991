package replication

// Restarted tells that the events from here on are for the new machine of a shard; see [Host.Restart]. It reads the
// entries up to Delivered from the log by itself: they were given to the machine before it.
type Restarted struct{ Delivered uint64 }

// Restart tells that a shard has a new machine, which knows what the log says and nothing of what the one before it had
// under way. Where this node leads, the new machine begins a round of its own, behind all that was proposed.
func (h *Host) Restart(shard uint64) error {
	g := h.groups[shard]
	if g == nil {
		return nil // the shard is in quarantine
	}
	h.events = append(h.events, Event{shard, Restarted{g.delivered}})
	if !g.leading {
		return nil
	}
	h.events = append(h.events, h.lead(g))
	g.barrier = true
	h.touch(g)
	return h.begin(g)
}
