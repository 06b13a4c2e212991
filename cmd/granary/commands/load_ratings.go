package commands

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/granary-dev/granary/loadtest/driver"
	"github.com/granary-dev/granary/loadtest/ledger"
	"github.com/granary-dev/granary/loadtest/ratings"
)

// loadRatings holds the flags of `granary load run ratings`.
type loadRatings struct {
	loadShape
	holdOut    bool
	parameters ratings.Parameters
}

func (a *app) loadRatingsCommand() *cobra.Command {
	t, l := &target{}, loadRatings{}
	cmd := &cobra.Command{
		Use:   "ratings",
		Short: "ratings of products, what is learnt from them, and a ledger of what became of each",
		Long: `Streams ratings to users, in the order of their times; users pass them on to products, and products learn which
others have fans in common with them: those of a file of the MovieLens form (--from), or look-alikes generated with
the figures published with its small data set.

Then the ledger: it reads the history of every user and product that was touched, and compares it with what was sent
and what was acknowledged. Nothing may be missing, nothing folded twice, out of order or altered, and counts and sums
must equal a recount. If not, the exit code is 1.

With --hold-out the last rating of four stars or more of each user is not sent. At the end it is counted how often it
stands among the ten products that the user's grain says come next; and how often among the ten that most users liked
and the user does not know. The users must be new to the node: nothing is sent if one has records already.

SIGINT ends the load early, and the ledger is still drawn up; a second one ends at once.

With -o json: an object with load and ledger as of load run transactions, but with users and products instead of
accounts and merchants, and with --hold-out quality (users, hits, popular_hits, hits_by_chance, empty).`,
		Example: `  granary load run ratings
  granary load run ratings --from ratings.csv.gz --hold-out
  granary load run ratings --users 10000 --ratings 2000000 --rate 5000 --for 1m --ledger sample`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.holdOut && cmd.Flags().Changed("for") {
				return usageFailure(cmd, "--hold-out goes with no --for: it takes all ratings but those held out")
			}
			return a.loadRatings(cmd.Context(), t, l)
		},
	}
	t.addTo(cmd)
	l.addTo(cmd)
	f := cmd.Flags()
	f.StringVar(&l.from, "from", "", "`FILE.csv.gz` or .csv with the ratings; without it they are generated")
	f.DurationVar(&l.driver.For, "for", 0, "how long at most; without it to the last rating")
	f.BoolVar(&l.holdOut, "hold-out", false, "keep back what each user liked last, and count how often it is foretold")
	f.IntVar(&l.parameters.Users, "users", 610, "`number` of generated users")
	f.IntVar(&l.parameters.Products, "products", 9724, "`number` of generated products")
	f.IntVar(&l.parameters.Ratings, "ratings", 100836, "`number` of generated ratings, at least 20 for each user")
	f.Uint64Var(&l.parameters.Seed, "seed", 0, "the same `number` generates the same ratings")
	return cmd
}

func (a *app) loadRatings(ctx context.Context, t *target, l loadRatings) error {
	all, err := l.ratings()
	if err != nil {
		return failed("granary load run ratings --help", "load run ratings: %w", err)
	}
	p := proof[ratings.Rating]{what: "load run ratings", kinds: "user and product", check: ledger.CheckRatings}
	if l.holdOut {
		split := ratings.HoldOut(all)
		all = split.Rest
		p.ready = func(ctx context.Context, conn grpc.ClientConnInterface) error {
			user, records, err := ratings.Touched(ctx, conn, split.Users())
			if records > 0 {
				return failed("granary dev --data-dir NEW-FOLDER", "load run ratings: user/%d has %s already: --hold-out judges what is learnt from its own ratings alone",
					user, several(records, "record"))
			}
			return err
		}
		p.judge = func(ctx context.Context, conn grpc.ClientConnInterface) (*ratings.Quality, error) {
			next, err := ratings.Foretold(ctx, conn, split.Users())
			if err != nil {
				return nil, err
			}
			q := split.Judge(next)
			return &q, nil
		}
	}
	p.workload = driver.Ratings(ratings.NewFeed(all))
	return prove(ctx, a, t, l.loadShape, p)
}

// ratings opens or generates what is sent.
func (l *loadRatings) ratings() ([]ratings.Rating, error) {
	if l.from != "" {
		return ratings.Open(l.from)
	}
	if err := l.parameters.Check(); err != nil {
		return nil, err
	}
	return ratings.Generate(l.parameters), nil
}

// qualityFigures are the lines of what was foretold.
func qualityFigures(q *ratings.Quality) []figure {
	share := func(hits float64) string {
		if q.Users == 0 {
			return "none"
		}
		return fmt.Sprintf("%.1f %%", 100*hits/float64(q.Users))
	}
	return []figure{
		{"", ""},
		{"held out", fmt.Sprintf("what %s liked last", several(q.Users, "user"))},
		{"foretold", fmt.Sprintf("%s (%s) in the first %d", count(q.Hits), share(float64(q.Hits)), ratings.TopN)},
		{"popular", fmt.Sprintf("%s (%s) in the %d most liked", count(q.PopularHits), share(float64(q.PopularHits)), ratings.TopN)},
		{"by chance", share(q.ByChance)},
		{"no list", several(q.Empty, "user") + " without a suggestion"},
	}
}
