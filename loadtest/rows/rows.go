// Package rows reads the CSV files that workloads come from: packed or not, with a first line that names the columns.
//
// Here live the opening, the unpacking and errors that name file and line. Here never lives what a row means. The package
// may import nothing of Granary.
//
// Invariant: a file with other columns than asked for yields no row.
package rows

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// File is an open file.
type File struct {
	name    string
	columns []string
	rows    *csv.Reader
	closer  []io.Closer
}

// Open opens a CSV file, unpacking it if its name ends in .gz.
func Open(path string, columns []string) (*File, error) {
	raw, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var in io.Reader = bufio.NewReaderSize(raw, 1<<16)
	closer := []io.Closer{raw}
	if strings.HasSuffix(path, ".gz") {
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			raw.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		in, closer = unzipped, []io.Closer{unzipped, raw}
	}
	f, err := Read(path, in, columns)
	if err != nil {
		raw.Close()
		return nil, err
	}
	f.closer = closer
	return f, nil
}

// Read reads CSV. The name is for error messages.
func Read(name string, in io.Reader, columns []string) (*File, error) {
	rows := csv.NewReader(in)
	rows.ReuseRecord = true
	rows.FieldsPerRecord = len(columns)
	head, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: empty: want a first line with %s", name, strings.Join(columns, ","))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !slices.Equal(head, columns) {
		return nil, fmt.Errorf("%s: the columns are %s: want %s", name, strings.Join(head, ","), strings.Join(columns, ","))
	}
	return &File{name: name, columns: columns, rows: rows}, nil
}

// Close closes the file. It does not close what was given to [Read].
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closer {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Next returns the next row, valid until the one after it, or [io.EOF].
func (f *File) Next() (Row, error) {
	fields, err := f.rows.Read()
	if errors.Is(err, io.EOF) {
		return Row{}, io.EOF
	}
	if err != nil {
		return Row{}, fmt.Errorf("%s: %w", f.name, err)
	}
	return Row{Fields: fields, columns: f.columns}, nil
}

// Wrong says what is wrong with the latest row, and where it is.
func (f *File) Wrong(err error) error {
	line, _ := f.rows.FieldPos(0)
	return fmt.Errorf("%s: line %d: %w", f.name, line, err)
}

// Row is one line. It remembers the first number that was none.
type Row struct {
	// Fields in the order of the columns.
	Fields  []string
	columns []string
	err     error
}

// Number is the field as a whole number of so many bits; 0 if it is none, which Err then tells.
func (r *Row) Number(column, bits int) uint64 {
	n, err := strconv.ParseUint(r.Fields[column], 10, bits)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", r.columns[column], err)
	}
	return n
}

// Err tells which number was none.
func (r *Row) Err() error { return r.err }
