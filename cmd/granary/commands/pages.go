package commands

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// maxPage is the most a node answers on one page, and takes in one call.
const maxPage = 1000

// onePage asks for a page, puts it out or into the table, and says how much it held and which comes next.
type onePage func(size uint32, token string) (got int, next string, err error)

// pages asks for pages until the limit is reached or there are no more. Where the limit cuts, people are told.
func (a *app) pages(t *table, limit uint64, noun string, page onePage) error {
	printed, more, err := allPages(limit, page)
	if flushed := t.flush(); err == nil {
		err = flushed
	}
	if err != nil || a.format == formatJSON {
		return err
	}
	switch {
	case printed == 0:
		fmt.Fprintf(a.Err, "no %ss\n", noun)
	case more:
		fmt.Fprintf(a.Err, "%s shown, there are more: --limit 0 shows all\n", several(printed, noun))
	}
	return nil
}

func allPages(limit uint64, page onePage) (printed uint64, more bool, err error) {
	for token := ""; ; {
		size := uint64(maxPage)
		if limit > 0 {
			size = min(size, limit-printed)
		}
		got, next, err := page(uint32(size), token)
		if err != nil {
			return printed, false, err
		}
		printed += uint64(max(got, 0))
		switch {
		case next == "":
			return printed, false, nil
		case limit > 0 && printed >= limit:
			return printed, true, nil
		case next == token:
			return printed, false, failed(hints[codes.Internal], "the node answered the same page twice (%q)", next)
		}
		token = next
	}
}
