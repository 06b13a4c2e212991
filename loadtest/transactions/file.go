package transactions

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/granary-dev/granary/loadtest/rows"
)

// columns of the file. TX_FRAUD and TX_FRAUD_SCENARIO are the truth, which never goes into a transaction's event.
var columns = []string{
	"TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD", "TX_FRAUD_SCENARIO",
}

// maxCents is the largest amount that an account takes.
const maxCents = 1_000_000_000_000

// File is the handbook's transactions as CSV. It is a [Source].
type File struct {
	rows *rows.File
	last time.Time
}

// Open reads transactions from a CSV file, unpacking it if its name ends in .gz.
func Open(path string) (*File, error) {
	in, err := rows.Open(path, columns)
	if err != nil {
		return nil, err
	}
	return &File{rows: in}, nil
}

// Read reads transactions as CSV. The name is for error messages.
func Read(name string, in io.Reader) (*File, error) {
	table, err := rows.Read(name, in, columns)
	if err != nil {
		return nil, err
	}
	return &File{rows: table}, nil
}

// Close closes the file. It does not close what was given to [Read].
func (f *File) Close() error { return f.rows.Close() }

// Next returns the next transaction, or [io.EOF]. Rows out of order or out of form are errors that name the line.
func (f *File) Next() (Transaction, error) {
	row, err := f.rows.Next()
	if err != nil {
		return Transaction{}, err
	}
	t, err := parseRow(row)
	if err == nil && t.Time.Before(f.last) {
		err = fmt.Errorf("%s is before the row above", row.Fields[1])
	}
	if err != nil {
		return Transaction{}, f.rows.Wrong(err)
	}
	f.last = t.Time
	return t, nil
}

func parseRow(row rows.Row) (t Transaction, err error) {
	t.ID = row.Number(0, 56)
	t.Customer, t.Terminal = uint32(row.Number(2, 32)), uint32(row.Number(3, 32))
	t.Fraud, t.Scenario = row.Number(5, 1) == 1, uint8(row.Number(6, 8))
	if err := row.Err(); err != nil {
		return Transaction{}, err
	}
	if t.Time, err = time.Parse(time.DateTime, row.Fields[1]); err != nil {
		return Transaction{}, err
	}
	if t.Cents, err = parseCents(row.Fields[4]); err != nil {
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
