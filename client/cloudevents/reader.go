package cloudevents

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	granaryv1 "github.com/granary-dev/granary/proto/granary/v1"
)

// Reader reads events from lines. Empty lines count, but hold no event; a byte order mark before the first line is
// stepped over. Its memory is bounded by [MaxLine].
type Reader struct {
	in   *bufio.Reader
	line int
	// long gathers a line that does not fit into the buffer of in.
	long []byte
}

// NewReader returns a reader of the lines of r.
func NewReader(r io.Reader) *Reader {
	const buffer = 256 << 10
	return &Reader{in: bufio.NewReaderSize(r, buffer)}
}

// Line is the number of the line that was read last, from 1.
func (r *Reader) Line() int { return r.line }

// Next returns the next event. After an error of type [*Error] the reader stands behind the bad line and Next may be
// called again; io.EOF is the end; any other error is the underlying reader's, with which Next has ended too.
func (r *Reader) Next() (*granaryv1.Event, error) {
	for {
		line, err := r.next()
		if err != nil {
			return nil, r.at(err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		event, err := Decode(line)
		if err != nil {
			return nil, r.at(err)
		}
		return event, nil
	}
}

// at names the line in an error about an event.
func (r *Reader) at(err error) error {
	var bad *Error
	if !errors.As(err, &bad) {
		return err
	}
	named := *bad
	named.Line = r.line
	return &named
}

// next returns the next line, valid until the call after.
func (r *Reader) next() ([]byte, error) {
	part, err := r.in.ReadSlice('\n')
	if len(part) == 0 && err != nil {
		return nil, err
	}
	r.line++
	if r.line == 1 {
		part = bytes.TrimPrefix(part, []byte("\uFEFF"))
	}
	if err == nil || errors.Is(err, io.EOF) {
		return part, nil
	}
	r.long = append(r.long[:0], part...)
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = r.in.ReadSlice('\n')
		if len(r.long)+len(part) > MaxLine+1 { // the line's end does not count
			return nil, r.skip(err)
		}
		r.long = append(r.long, part...)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return bytes.TrimSuffix(r.long, []byte("\n")), nil
}

// skip steps over the rest of a line that is too long.
func (r *Reader) skip(err error) error {
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.in.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return tooLong
}
