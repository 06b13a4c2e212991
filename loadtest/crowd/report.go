package crowd

// Latency sums up how long clients waited for what was done, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// Report is what a crowd did and how it is judged.
type Report struct {
	// Run is the name in all keys, and Seed what the operations were drawn from.
	Run  string `json:"run"`
	Seed uint64 `json:"seed"`
	// Seconds of work, and JudgeSeconds of waiting, reading back and judging.
	Seconds      float64 `json:"seconds"`
	JudgeSeconds float64 `json:"judge_seconds"`
	// Operations judged, by what their clients were told, and how many were on contended grains.
	Operations int `json:"operations"`
	OK         int `json:"ok"`
	Failed     int `json:"failed"`
	Unknown    int `json:"unknown"`
	Contended  int `json:"contended"`
	// Known is how many single events the cluster had already, and Resent how many events producers sent again, in
	// Reconnects streams.
	Known      int    `json:"known"`
	Resent     uint64 `json:"resent"`
	Reconnects uint64 `json:"reconnects"`
	// Refusals of single events and reads, by reason.
	Refusals map[string]int `json:"refusals,omitempty"`
	// Latency of what was done.
	Latency Latency `json:"latency"`
	// Grains read back, the Values in their lists, the sends they Received, and SecondOpinions of porcupine.
	Grains         int `json:"grains"`
	Values         int `json:"values"`
	Received       int `json:"received"`
	SecondOpinions int `json:"second_opinions"`
	// Violations found, the first of them, and Found how many there are; none in a good run.
	Violations []string `json:"violations,omitempty"`
	Found      int      `json:"found"`
	// Story is what clients did with the grain of the first violation, for people.
	Story string `json:"story,omitempty"`
}

// Clean tells whether nothing was found.
func (r *Report) Clean() bool { return r.Found == 0 }

func (r *Report) accuse(text string) {
	if r.Found++; r.Found <= maxViolations {
		r.Violations = append(r.Violations, text)
	}
}

// report is what is known without the judges.
func (c *Crowd) report() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := func(percentile float64) float64 { return float64(c.latency.ValueAtPercentile(percentile)) / 1000 }
	r := &Report{
		Run: c.o.Run, Seed: c.o.Seed, Seconds: c.worked.Seconds(),
		Operations: len(c.history.Records()), OK: c.counts.OK, Failed: c.counts.Failed, Unknown: c.counts.Unknown, Contended: c.counts.Contended,
		Known: c.known, Resent: c.resent.Resent, Reconnects: c.resent.Reconnects, Refusals: c.refusals,
		Latency: Latency{P50: at(50), P99: at(99), Max: float64(c.latency.Max()) / 1000},
	}
	for _, text := range c.wrong {
		r.accuse(text)
	}
	return r
}
