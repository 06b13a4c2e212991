package window

import "slices"

// Place is where an event belongs among the latest ones, whose times ascend: behind all that are not newer. It reports
// false if the event is older than all of them and there are limit of them already.
func Place(times []int64, at int64, limit int) (i int, ok bool) {
	i = len(times)
	for i > 0 && times[i-1] > at {
		i--
	}
	return i, i > 0 || len(times) < limit
}

// Put inserts v where [Place] said, into one of the parallel lists of the latest events. A list that has limit elements
// already loses its first.
func Put[T any](list []T, i int, v T, limit int) []T {
	if len(list) < limit {
		return slices.Insert(list, i, v)
	}
	copy(list, list[1:i])
	list[i-1] = v
	return list
}
