package transactions

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// columns of the file. TX_FRAUD and TX_FRAUD_SCENARIO are the truth, which never goes into a transaction's event.
var columns = []string{
	"TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD", "TX_FRAUD_SCENARIO",
}

// maxCents is the largest amount that an account takes.
const maxCents = 1_000_000_000_000

// File is the handbook's transactions as CSV. It is a [Source].
type File struct {
	name   string
	rows   *csv.Reader
	closer []io.Closer
	last   time.Time
}

// Open reads transactions from a CSV file, unpacking it if its name ends in .gz.
func Open(path string) (*File, error) {
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
	f, err := Read(path, in)
	if err != nil {
		raw.Close()
		return nil, err
	}
	f.closer = closer
	return f, nil
}

// Read reads transactions as CSV. The name is for error messages.
func Read(name string, in io.Reader) (*File, error) {
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
	return &File{name: name, rows: rows}, nil
}

// Close closes the file. It does not close what was given to [Read].
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closer {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Next returns the next transaction, or [io.EOF]. Rows out of order or out of form are errors that name the line.
func (f *File) Next() (Transaction, error) {
	row, err := f.rows.Read()
	if errors.Is(err, io.EOF) {
		return Transaction{}, io.EOF
	}
	if err != nil {
		return Transaction{}, fmt.Errorf("%s: %w", f.name, err)
	}
	t, err := parseRow(row)
	if err == nil && t.Time.Before(f.last) {
		err = fmt.Errorf("%s is before the row above", row[1])
	}
	if err != nil {
		line, _ := f.rows.FieldPos(0)
		return Transaction{}, fmt.Errorf("%s: line %d: %w", f.name, line, err)
	}
	f.last = t.Time
	return t, nil
}

func parseRow(row []string) (t Transaction, err error) {
	number := func(column, bits int) uint64 {
		n, problem := strconv.ParseUint(row[column], 10, bits)
		if problem != nil && err == nil {
			err = fmt.Errorf("%s: %w", columns[column], problem)
		}
		return n
	}
	t.ID = number(0, 56)
	t.Customer, t.Terminal = uint32(number(2, 32)), uint32(number(3, 32))
	t.Fraud, t.Scenario = number(5, 1) == 1, uint8(number(6, 8))
	if err != nil {
		return Transaction{}, err
	}
	if t.Time, err = time.Parse(time.DateTime, row[1]); err != nil {
		return Transaction{}, err
	}
	if t.Cents, err = parseCents(row[4]); err != nil {
		return Transaction{}, err
	}
	return t, nil
}

// parseCents reads an amount and rounds it to cents: the handbook multiplied some in binary floating point.
func parseCents(amount string) (int64, error) {
	f, err := strconv.ParseFloat(amount, 64)
	if err != nil {
		return 0, err
	}
	// A NaN fails both comparisons.
	if !(f >= 0 && f*100 <= maxCents) {
		return 0, fmt.Errorf("amount %s is not between 0 and %d", amount, maxCents/100)
	}
	return int64(math.Round(f * 100)), nil
}
