package user

import (
	"github.com/granary-dev/granary/grains"
	userv1 "github.com/granary-dev/granary/proto/granary/user/v1"
)

// recommend tells what comes next, with what speaks for it.
func recommend(_ *grains.View, s *userv1.User, q *userv1.Recommend) (*userv1.Recommendations, error) {
	if q.Limit > maxNext {
		return nil, grains.Rejectf("limit is %d; at most %d are known", q.Limit, maxNext)
	}
	n := len(s.Next)
	if q.Limit > 0 {
		n = min(n, int(q.Limit))
	}
	out := &userv1.Recommendations{}
	for i, product := range s.Next[:n] {
		out.Products = append(out.Products, &userv1.Recommendation{Product: product, Score: s.NextScores[i], Because: s.NextBecause[i]})
	}
	return out, nil
}
