package ratings

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/granary-dev/granary/loadtest/rows"
)

// columns of the file.
var columns = []string{"userId", "movieId", "rating", "timestamp"}

// maxRatings is how many ratings a file may have: it is in the order of users, and so has to be read whole.
const maxRatings = 50_000_000

// Open reads the ratings of a CSV file, unpacking it if its name ends in .gz, and returns them in the order of their
// times.
func Open(path string) ([]Rating, error) {
	f, err := rows.Open(path, columns)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// Read reads ratings as CSV and returns them in the order of their times. The name is for error messages. Rows out of
// form are errors that name the line.
func Read(name string, in io.Reader) ([]Rating, error) {
	f, err := rows.Read(name, in, columns)
	if err != nil {
		return nil, err
	}
	return readAll(f)
}

func readAll(f *rows.File) ([]Rating, error) {
	var all []Rating
	for {
		row, err := f.Next()
		if errors.Is(err, io.EOF) {
			return sorted(all), nil
		}
		if err != nil {
			return nil, err
		}
		r, err := parseRow(row)
		if err == nil && len(all) == maxRatings {
			err = fmt.Errorf("more than %d ratings", maxRatings)
		}
		if err != nil {
			return nil, f.Wrong(err)
		}
		all = append(all, r)
	}
}

func parseRow(row rows.Row) (r Rating, err error) {
	r.User, r.Product = uint32(row.Number(0, 32)), uint32(row.Number(1, 32))
	r.Time = time.Unix(int64(row.Number(3, 40)), 0).UTC()
	if err := row.Err(); err != nil {
		return Rating{}, err
	}
	stars, err := strconv.ParseFloat(row.Fields[2], 64)
	if err != nil {
		return Rating{}, fmt.Errorf("rating: %w", err)
	}
	// A NaN fails all comparisons.
	if !(stars >= 0.5 && stars <= 5) || stars*2 != math.Trunc(stars*2) {
		return Rating{}, fmt.Errorf("rating %s is not 0.5, 1.0 … 5.0", row.Fields[2])
	}
	r.HalfStars = uint8(stars * 2)
	return r, nil
}
