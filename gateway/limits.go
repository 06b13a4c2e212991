package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limit is one of the [Limits] as an operator sees it.
type Limit struct {
	// Name by which it is set, Default as it would be written, and Doc in a sentence.
	Name, Default, Doc string
	set                func(l *Limits, value string) error
}

// LimitList are all limits, in the order in which they are met.
func LimitList() []Limit {
	var d Limits
	_ = d.fill() // the defaults go together
	return []Limit{
		count("connections", d.Connections, "connections open at once; further ones are closed", func(l *Limits) *int { return &l.Connections }),
		duration("sniff-timeout", d.SniffTimeout, "for a connection's first bytes", func(l *Limits) *time.Duration { return &l.SniffTimeout }),
		duration("header-timeout", d.HeaderTimeout, "for the HTTP/2 handshake, or the headers of an HTTP/1.1 request", func(l *Limits) *time.Duration { return &l.HeaderTimeout }),
		count("header-bytes", d.HeaderBytes, "bytes of a request's headers", func(l *Limits) *int { return &l.HeaderBytes }),
		duration("body-timeout", d.BodyTimeout, "for an HTTP/1.1 request from its headers to its answer", func(l *Limits) *time.Duration { return &l.BodyTimeout }),
		duration("idle-timeout", d.IdleTimeout, "that a connection may be open without a call", func(l *Limits) *time.Duration { return &l.IdleTimeout }),
		duration("ping-after", d.PingAfter, "of silence, then an HTTP/2 client is asked whether it is there", func(l *Limits) *time.Duration { return &l.PingAfter }),
		duration("ping-timeout", d.PingTimeout, "for its answer; then it is cut", func(l *Limits) *time.Duration { return &l.PingTimeout }),
		duration("ping-every", d.PingEvery, "at least, between the pings of a client; one that pings faster is cut", func(l *Limits) *time.Duration { return &l.PingEvery }),
		count("streams", d.Streams, "calls and streams open at once on one HTTP/2 connection; further ones wait", func(l *Limits) *int { return &l.Streams }),
		count("window", d.Window, "unanswered batches of one stream; beyond, it is not read from", func(l *Limits) *int { return &l.Window }),
		count("stream-in-flight", d.StreamInFlight, "bytes of those", func(l *Limits) *int { return &l.StreamInFlight }),
		count("in-flight", int(d.InFlight), "bytes of unanswered batches of all streams and calls; beyond, calls are refused and streams not read from", func(l *Limits) *int64 { return &l.InFlight }),
		duration("send-timeout", d.SendTimeout, "that a client may leave the answers of a stream unread; then the stream is cut", func(l *Limits) *time.Duration { return &l.SendTimeout }),
	}
}

func count[N int | int64](name string, otherwise int, doc string, of func(*Limits) *N) Limit {
	return Limit{Name: name, Default: strconv.Itoa(otherwise), Doc: doc, set: func(l *Limits, value string) error {
		n, err := strconv.ParseInt(value, 10, 63)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a whole number of at least 1", value)
		}
		if *of(l) = N(n); int64(*of(l)) != n {
			return fmt.Errorf("%q is too large", value)
		}
		return nil
	}}
}

func duration(name string, otherwise time.Duration, doc string, of func(*Limits) *time.Duration) Limit {
	text := strings.TrimSuffix(otherwise.String(), "0s")
	if text == "" || !strings.HasSuffix(text, "m") {
		text = otherwise.String()
	}
	return Limit{Name: name, Default: text, Doc: doc, set: func(l *Limits, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration above 0 like 30s", value)
		}
		*of(l) = d
		return nil
	}}
}

// ParseLimits reads limits by their names. What is not named has its default. It fails when there is no such limit, a value
// is none, or limits do not go together.
func ParseLimits(values map[string]string) (Limits, error) {
	var l Limits
	list := LimitList()
	for name, value := range values {
		known := false
		for _, limit := range list {
			if limit.Name != name {
				continue
			}
			known = true
			if err := limit.set(&l, value); err != nil {
				return l, fmt.Errorf("limit %s: %w", name, err)
			}
		}
		if !known {
			return l, fmt.Errorf("there is no limit %q", name)
		}
	}
	filled := l
	if err := filled.fill(); err != nil {
		return l, err
	}
	return l, nil
}
