package judge

import (
	"math"

	"github.com/anishathalye/porcupine"

	"github.com/granary-dev/granary/loadtest/workload"
)

// Linearizable is a second opinion on the list of one grain: it asks porcupine for an order of all appends and reads that
// explains what was seen, the final list included. It knows nothing of the rules, and says nothing of stale reads,
// producers and sends. Its time grows with the square of the grain's operations; thousands are too many.
func Linearizable(h *workload.History, final Final, key string) bool {
	list := final[key].Values
	return porcupine.CheckOperations(model(list), operations(h, list, key))
}

// action is the input of the model: an append of a value or, with value 0, a read that showed a list.
type action struct {
	value uint64
	list  []uint64
	final bool
}

// model is a list that ends as the final one. A state is how many of its values are there, because an append of any
// other than the next cannot be part of an answer: without this the order of appends that nobody waited for would be
// guessed in exponential time. One more than there are means that the final list was read, and all is possible.
func model(final []uint64) porcupine.Model {
	closed := len(final) + 1
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, _ any) (bool, any) {
			n, a := state.(int), input.(action)
			switch {
			case n == closed:
				return a.value != 0, closed
			case a.value != 0:
				return n < len(final) && final[n] == a.value, n + 1
			case len(a.list) != n:
				return false, n
			}
			for i, value := range a.list {
				if final[i] != value {
					return false, n
				}
			}
			if a.final {
				return true, closed
			}
			return true, n
		},
	}
}

// operations makes one operation of all tries of an append, and leaves out what surely had no effect. What is unknown
// may happen at any time after it began, also after the final read.
func operations(h *workload.History, final []uint64, key string) []porcupine.Operation {
	var all []porcupine.Operation
	appends := map[uint64]int{}
	end := int64(0)
	for _, r := range h.Records() {
		end = max(end, r.Began, r.Ended)
		switch {
		case r.Key != key || r.Outcome == workload.Failed:
		case r.Action == workload.Append:
			i, known := appends[r.Value]
			if !known {
				i = len(all)
				appends[r.Value] = i
				all = append(all, porcupine.Operation{ClientId: r.Client, Input: action{value: r.Value}, Call: r.Began, Return: math.MaxInt64})
			}
			all[i].Call = min(all[i].Call, r.Began)
			if r.Outcome == workload.OK {
				all[i].Return = min(all[i].Return, r.Ended)
			}
		case r.Action == workload.Read && r.Outcome == workload.OK:
			all = append(all, porcupine.Operation{ClientId: r.Client, Input: action{list: r.Values}, Call: r.Began, Return: r.Ended})
		}
	}
	return append(all, porcupine.Operation{Input: action{list: final, final: true}, Call: end + 1, Return: end + 2})
}
