package judge

import "github.com/granary-dev/granary/loadtest/workload"

// sends holds what was received to what is in the lists of those who sent it.
func (c *check) sends() {
	for _, key := range c.keys {
		g := c.final[key]
		if g.Uncounted > 0 {
			c.report(Sends, key, nil, "%d sends were received and only counted: that is too many to judge", g.Uncounted)
		}
		last := map[string]*fate{} // of each sender
		for _, value := range g.Received {
			c.receive(key, value, last)
		}
	}
	for _, key := range c.keys {
		for _, value := range c.final[key].Values {
			f := c.fate(value)
			if f == nil || f.arrived > 0 {
				continue
			}
			if r := c.append(f); r.Key == key && r.To != "" {
				c.report(Sends, r.To, []int{f.record}, "%s is in the list of %s, which sent it here, and was not received",
					workload.FormatValue(value), key)
			}
		}
	}
}

// receive looks at one value that was received. last are the latest values of each sender that were received before.
func (c *check) receive(key string, value uint64, last map[string]*fate) {
	f := c.fate(value)
	switch {
	case f == nil:
		c.report(Sends, key, nil, "%s was received, and nobody sent it", workload.FormatValue(value))
		return
	case c.append(f).To != key:
		c.report(Sends, key, []int{f.record}, "%s was received, and was not sent here", workload.FormatValue(value))
		return
	}
	f.arrived++
	from := c.append(f).Key
	switch {
	case f.arrived > 1:
		c.report(Sends, key, []int{f.record}, "%s was received %d times", workload.FormatValue(value), f.arrived)
	case f.place < 0:
		c.report(Sends, key, []int{f.record}, "%s was received, and is not in the list of %s that sends it", workload.FormatValue(value), from)
	default:
		if before := last[from]; before != nil && before.place > f.place {
			c.report(SendOrder, key, []int{before.record, f.record}, "%s was received after %s; %s has them the other way round",
				workload.FormatValue(value), workload.FormatValue(c.append(before).Value), from)
		}
		last[from] = f
	}
}

// balances counts all amounts again. Values that nobody appended have none.
func (c *check) balances() {
	sum := int64(0)
	for _, key := range c.keys {
		g := c.final[key]
		want := int64(0)
		for _, value := range g.Received {
			if f := c.fate(value); f != nil {
				want += c.append(f).Amount
			}
		}
		for _, value := range g.Values {
			if f := c.fate(value); f != nil {
				want -= c.append(f).Amount
			}
		}
		if g.Balance != want {
			c.report(Balances, key, nil, "the balance is %d; by what it received and sent it is %d", g.Balance, want)
		}
		sum += g.Balance
	}
	if sum != 0 {
		c.report(Balances, "", nil, "all balances together are %d", sum)
	}
}
