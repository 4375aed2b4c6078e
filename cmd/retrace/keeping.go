package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest/keep"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// keepSetting is the setting that says which snapshots of a source are kept.
const keepSetting = "source.keep"

// releasing is what a content store offers that can let snapshots go.
// *content.Store does; the one behind a server is kept by the server.
type releasing interface {
	Holding(ctx context.Context, key schema.Key, holder string) (content.Holding, error)
	Release(ctx context.Context, holder string, keys []schema.Key) error
	Collect(ctx context.Context, needed func(schema.Key) (bool, error)) (content.Collected, error)
}

// keptSnapshot is a recorded snapshot of a folder, and why it is kept.
type keptSnapshot struct {
	Entry int64      `json:"entry"`
	At    time.Time  `json:"at"`
	Key   schema.Key `json:"key"`
	Kept  bool       `json:"kept"` // its bytes are there
	// Why has the rules that keep it, or what else does; "" for one that goes.
	Why []string `json:"why"`
	// Goes says that nothing keeps it any more: the next keeping lets it go.
	Goes bool `json:"goes,omitempty"`
}

// judge says of each snapshot of source that is recorded whether the rules, or
// anything else, keep it. The order is that of the ledger.
func judge(ctx context.Context, v *lineage.View, store releasing, source string, rules *keep.Rules) ([]keptSnapshot, error) {
	history, err := v.History(schema.NameSnapshot + ":" + source)
	if err != nil {
		return nil, err
	}
	var times []time.Time
	var all []keptSnapshot
	for _, p := range history {
		if p.Evidence.Trusted() {
			times = append(times, p.At)
			all = append(all, keptSnapshot{Entry: p.Entry, At: p.At, Key: p.Key, Why: []string{}})
		}
	}
	kept := make([][]string, len(all))
	if rules != nil {
		kept = rules.Kept(times)
	}
	// The same bytes at several times are kept for the sake of any of them.
	wanted := map[schema.Key]bool{}
	for i := range all {
		wanted[all[i].Key] = wanted[all[i].Key] || len(kept[i]) > 0
	}
	for i := range all {
		s := &all[i]
		h, err := store.Holding(ctx, s.Key, source)
		if err != nil {
			return nil, err
		}
		s.Kept, s.Why = h.Kept, append(s.Why, kept[i]...)
		if !h.Kept {
			continue
		}
		if wanted[s.Key] && len(kept[i]) == 0 {
			s.Why = append(s.Why, "the same as a later or earlier one")
		}
		if h.Good {
			s.Why = append(s.Why, "kept for good: taken by hand or by a run, or before there were rules")
		}
		if h.Others {
			s.Why = append(s.Why, "kept by another source or ledger")
		}
		entry, err := used(v, s.Key)
		if err != nil {
			return nil, err
		}
		if entry >= 0 {
			s.Why = append(s.Why, fmt.Sprintf("mentioned by entry %d", entry))
		}
		s.Goes = rules != nil && h.Mine && !h.Good && !wanted[s.Key] && entry < 0
		if !s.Goes && len(s.Why) == 0 {
			s.Why = append(s.Why, "no rule says that it goes")
		}
	}
	return all, nil
}

// used is the first entry that mentions k and is no snapshot, release or
// coverage; -1 if none does.
func used(v *lineage.View, k schema.Key) (int64, error) {
	entries, err := v.Mentions(k)
	if err != nil {
		return -1, err
	}
	for _, i := range entries {
		e, err := v.Entry(i)
		if err != nil {
			return -1, err
		}
		if !slices.Contains([]string{schema.SnapshotV1, schema.ReleaseV1, schema.CoverageV1}, e.PredicateType) {
			return i, nil
		}
	}
	return -1, nil
}

// released is the state of the releases of a source: the statement of the last,
// by the sha256 of its payload. It is a cursor.
type released struct {
	Previous string `json:"previous"`
}

// keep lets go of what the rules of source do not keep. What is let go is
// recorded first; when it returns before the store did, the next call has it
// done. It returns how many snapshots it let go.
func (b *book) keep(ctx context.Context, source string, rules keep.Rules) (int, error) {
	store, ok := b.store.(releasing)
	if !ok {
		return 0, errors.New("the content store is behind a server, which keeps its snapshots itself")
	}
	if err := b.graph.Follow(ctx, b.log); err != nil {
		return 0, err
	}
	v, err := b.view(0, "")
	if err != nil {
		return 0, err
	}
	all, err := judge(ctx, v, store, source, &rules)
	if err != nil {
		return 0, fmt.Errorf("keeping snapshots of %s: %w", source, err)
	}
	var goes []schema.Key
	var fresh []schema.Descriptor
	seen := map[schema.Key]bool{}
	for _, s := range all {
		if !s.Goes || seen[s.Key] || len(goes) == schema.MaxSubjects {
			continue
		}
		seen[s.Key] = true
		goes = append(goes, s.Key)
		recorded, err := isReleased(v, s)
		if err != nil {
			return 0, err
		}
		if !recorded {
			fresh = append(fresh, schema.Descriptor{Name: "snapshot", Digest: schema.DigestSet{s.Key.Algorithm(): s.Key.Hex()}})
		}
	}
	if len(fresh) > 0 {
		if err := b.recordRelease(ctx, source, rules, fresh); err != nil {
			return 0, fmt.Errorf("recording what of %s is kept no more: %w", source, err)
		}
	}
	return len(goes), store.Release(ctx, source, goes)
}

// isReleased says whether it is recorded that the bytes of s, as they were taken
// then, are kept no more.
func isReleased(v *lineage.View, s keptSnapshot) (bool, error) {
	about, err := v.About(s.Key)
	if err != nil {
		return false, err
	}
	last := int64(-1) // entry that says that it was taken
	gone := int64(-1)
	for _, e := range about {
		switch {
		case e.PredicateType == schema.SnapshotV1:
			last = max(last, e.Index)
		case e.PredicateType == schema.ReleaseV1 && e.Evidence.Trusted():
			gone = max(gone, e.Index)
		}
	}
	return gone > last, nil
}

func (b *book) recordRelease(ctx context.Context, source string, rules keep.Rules, subjects []schema.Descriptor) error {
	cursor := schema.Cursor{Source: "release:" + source}
	var err error
	if cursor.From, err = b.log.Cursor(ctx, schema.DefaultNamespace, cursor.Source); err != nil {
		return err
	}
	var before released
	if cursor.From != "" {
		if err := json.Unmarshal([]byte(cursor.From), &before, json.RejectUnknownMembers(true)); err != nil {
			return fmt.Errorf("reading the cursor %s: %w", cursor.Source, err)
		}
	}
	s, err := schema.NewStatement(schema.ReleaseV1, schema.Release{Source: source, Rules: rules.String(), Previous: before.Previous}, subjects...)
	if err != nil {
		return err
	}
	payload, err := s.Encode()
	if err != nil {
		return err
	}
	to, err := schema.Canonical(released{Previous: schema.BytesKey(payload).Hex()})
	if err != nil {
		return err
	}
	cursor.To = string(to)
	_, err = b.record(ctx, source, []schema.Statement{s}, cursor)
	return err
}

// needed says whether an entry other than snapshots and releases mentions a file.
func (b *book) needed(k schema.Key) (bool, error) {
	v, err := b.view(0, "")
	if err != nil {
		return false, err
	}
	entry, err := used(v, k)
	return entry >= 0, err
}

// How often a server looks at what is to be kept, and at least how long between
// two collections of what is not.
const (
	keepEvery    = 15 * time.Minute
	collectEvery = 6 * time.Hour
)

// keeping has the rules of all watched folders applied until ctx is done.
func (w *watching) keeping(ctx context.Context, logger *slog.Logger) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	let, collected := false, time.Time{}
	for {
		for source, rules := range w.keepRules() {
			n, err := w.b.keep(ctx, source, rules)
			if err != nil && ctx.Err() == nil {
				logger.Error("keeping snapshots", "source", source, "err", err)
			}
			let = let || n > 0
		}
		if store, ok := w.b.store.(releasing); ok && let && time.Since(collected) >= collectEvery {
			c, err := store.Collect(ctx, w.b.needed)
			switch {
			case err != nil && ctx.Err() == nil:
				logger.Error("collecting content that is kept no more", "err", err)
			case err == nil:
				logger.Info("collected content that is kept no more", "snapshots", c.Folders, "bytes", c.Before-c.After)
				let, collected = false, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// keepRules are the rules of the folders that are watched, by source.
func (w *watching) keepRules() map[string]keep.Rules {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]keep.Rules{}
	for name, r := range w.running {
		if rules := r.keep(); rules != nil {
			all[name] = *rules
		}
	}
	return all
}

// keep are the rules of a source, nil where it has none.
func (r *runningSource) keep() *keep.Rules {
	place, err := r.config.place()
	if err != nil || r.kind.Name != snapshot.Name {
		return nil
	}
	rules, err := snapshot.KeepOf(place)
	if err != nil {
		return nil // it would not be running
	}
	return rules
}

// recordKeep states which rules keep the snapshots of a source, where that is
// not what was stated last.
func (w *watching) recordKeep(ctx context.Context, source string, rules *keep.Rules) error {
	text := ""
	if rules != nil {
		text = rules.String()
	}
	cursor, err := w.b.log.Cursor(ctx, schema.DefaultNamespace, "config:"+keepSetting+":"+source)
	if err != nil || text == "" && cursor == "" {
		return err
	}
	return w.recordSetting(ctx, keepSetting, source, text, map[string]string{"rules": text, "source": source})
}

// statedKeep are the rules that were stated last for a source, nil where there
// are none.
func (b *book) statedKeep(ctx context.Context, source string) (*keep.Rules, error) {
	cursor, err := b.log.Cursor(ctx, schema.DefaultNamespace, "config:"+keepSetting+":"+source)
	if err != nil || cursor == "" {
		return nil, err
	}
	var s stated
	if err := json.Unmarshal([]byte(cursor), &s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("reading the keep rules of %s: %w", source, err)
	}
	if s.Value == "" {
		return nil, nil
	}
	k, err := keep.Parse(s.Value)
	return &k, err
}
