package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/retrace-ledger/retrace/keys"
	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	"github.com/retrace-ledger/retrace/lineage"
	lineagebench "github.com/retrace-ledger/retrace/lineage/bench"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// modelsTimes is the user's case: so many models of six steps each, from
// signed statements to an index that answers.
type modelsTimes struct {
	Models   int    `json:"models"`
	Entries  int    `json:"entries"`
	Bytes    int    `json:"bytes"` // of the envelopes
	RawS     spread `json:"rawS"`  // raw Badger, the same keys, bytes and commits
	AppendS  spread `json:"appendS"`
	FollowS  spread `json:"followS"` // the index built, signatures not looked at
	AppendVS spread `json:"appendVerifiedS"`
	FollowVS spread `json:"followVerifiedS"` // each signature verified
	// How many times as long as raw Badger it took, in the same round.
	AppendTimes   spread `json:"appendTimes"`
	Times         spread `json:"times"`         // appended and indexed
	VerifiedTimes spread `json:"verifiedTimes"` // with each statement checked and each signature verified
}

// modelsCallers is how many pipelines record at once, a model a call.
const modelsCallers = 64

// measureModels records all models of the user's case in a new ledger and
// builds the index, in each round once without and once with verification.
func measureModels(ctx context.Context, dir string, opt options) (*modelsTimes, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	statements, err := lineagebench.Statements(opt.models)
	if err != nil {
		return nil, err
	}
	m := &modelsTimes{Models: opt.models}
	batches := make([][]schema.Envelope, len(statements))
	for i, of := range statements {
		for _, s := range of {
			env, err := key.SignStatement(s)
			if err != nil {
				return nil, err
			}
			batches[i] = append(batches[i], env)
			m.Entries, m.Bytes = m.Entries+1, m.Bytes+len(env.Raw)
		}
	}
	var raw, appends, follow, appendsV, followV, appendTimes, times, verifiedTimes []float64
	for round := range opt.rounds {
		at := filepath.Join(dir, fmt.Sprint(round))
		r, a, f, err := modelsRound(ctx, filepath.Join(at, "plain"), key, batches)
		if err != nil {
			return nil, err
		}
		av, fv, err := modelsVerified(ctx, filepath.Join(at, "verified"), key, batches)
		if err != nil {
			return nil, err
		}
		raw, appends, follow, appendsV, followV = append(raw, r), append(appends, a), append(follow, f), append(appendsV, av), append(followV, fv)
		appendTimes, times, verifiedTimes = append(appendTimes, a/r), append(times, (a+f)/r), append(verifiedTimes, (av+fv)/r)
		if err := os.RemoveAll(at); err != nil {
			return nil, err
		}
	}
	m.RawS, m.AppendS, m.FollowS, m.AppendVS, m.FollowVS = spreadOf(raw), spreadOf(appends), spreadOf(follow), spreadOf(appendsV), spreadOf(followV)
	m.AppendTimes, m.Times, m.VerifiedTimes = spreadOf(appendTimes), spreadOf(times), spreadOf(verifiedTimes)
	return m, nil
}

// modelsRound returns the seconds of the bare store, of appending and of
// indexing.
func modelsRound(ctx context.Context, dir string, key *keys.Private, batches [][]schema.Envelope) (raw, appends, follow float64, err error) {
	contest, err := ledgerbench.NewContest(dir, key)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, contest.Close()) }()
	runtime.GC()
	turn, commits, err := contest.Append(ctx, modelsCallers, batches)
	if err != nil {
		return 0, 0, 0, err
	}
	runtime.GC()
	bare, err := contest.Raw(slices.Concat(batches...), commits)
	if err != nil {
		return 0, 0, 0, err
	}
	f, err := index(ctx, filepath.Join(dir, "lineage"), contest, func(schema.Envelope, []schema.PublicKey) []string { return nil })
	return bare.Took.Seconds(), turn.Took.Seconds(), f, err
}

// modelsVerified returns the seconds of appending and of indexing with all
// that a ledger checks.
func modelsVerified(ctx context.Context, dir string, key *keys.Private, batches [][]schema.Envelope) (appends, follow float64, err error) {
	contest, err := ledgerbench.NewContest(dir, key)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, contest.Close()) }()
	runtime.GC()
	turn, err := contest.AppendWhole(ctx, modelsCallers, batches)
	if err != nil {
		return 0, 0, err
	}
	f, err := index(ctx, filepath.Join(dir, "lineage"), contest, verify.Signers)
	return turn.Took.Seconds(), f, err
}

// index builds the lineage in dir and returns the seconds it took.
func index(ctx context.Context, dir string, contest *ledgerbench.Contest, signers lineage.Signers) (_ float64, err error) {
	g, err := lineage.Open(dir, contest.Log, signers, verify.Trusted)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	runtime.GC()
	began := time.Now()
	if err := g.Follow(ctx, contest.Log); err != nil {
		return 0, err
	}
	return time.Since(began).Seconds(), nil
}
