package mlflow

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "mlflow"

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{Name: Name, Schemes: []string{"mlflow+http", "mlflow+https"}, Open: open}
}

// open reads mlflow+https://HOST[:PORT][/PATH][?experiment=NAME].
func open(_ context.Context, place ingest.Place, _ ingest.Env) (ingest.Source, string, error) {
	u, err := url.Parse(place.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || len(u.Query()) > 1 || len(u.Query()) == 1 && u.Query().Get("experiment") == "" {
		return nil, "", fmt.Errorf("%q is not the URL of a tracking server: want mlflow+https://HOST/PATH, perhaps with ?experiment=NAME", ingest.WithoutCredentials(place.URL))
	}
	c := &client{http: &http.Client{Timeout: timeout}}
	if err := place.Settings(&c.settings); err != nil {
		return nil, "", err
	}
	switch {
	case c.Token.Given() && c.Username != "":
		return nil, "", ingest.Setting("token", errors.New("is given beside username; one of them says who asks"))
	case c.Username != "" && !c.Password.Given():
		return nil, "", ingest.Setting("password", errors.New("is missing for the username"))
	}
	scheme := strings.TrimPrefix(u.Scheme, Name+"+")
	c.base = scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/")
	name := Name + "+" + c.base
	only := u.Query().Get("experiment")
	if only != "" {
		name += "?experiment=" + url.QueryEscape(only)
	}
	return &source{client: c, only: only}, name, nil
}

// source reads a tracking server. It is for one goroutine at a time.
type source struct {
	client *client
	only   string // name of an experiment; "" for all
}

// position is the cursor.
type position struct {
	Runs     passed           `json:"runs,omitzero"`
	Versions passed           `json:"versions,omitzero"`
	Aliases  map[string]alias `json:"aliases,omitempty"` // by MODEL@ALIAS
}

// passed is how far a list in the order of time was given: up to a time, and of
// those not long before it which, as clocks of those who write differ.
type passed struct {
	Through millis            `json:"through,omitempty"`
	Recent  map[string]millis `json:"recent,omitempty"`
}

// alias is what one pointed at, as it was given last.
type alias struct {
	Version  string `json:"version,omitempty"` // "" of one that was deleted
	Previous string `json:"previous"`          // sha256 of the statement, in hex
}

// window is how much later than others something may be listed that is said to
// have been before them.
const window = millis(time.Hour / time.Millisecond)

// maxAliases are the most that are followed.
const maxAliases = 2000

func (p *passed) has(id string, at millis) bool {
	_, recent := p.Recent[id]
	return recent || p.Through > 0 && at < p.Through-window
}

func (p *passed) note(id string, at millis) {
	recent := map[string]millis{id: at}
	p.Through = max(p.Through, min(at, millis(time.Now().Add(5*time.Minute).UnixMilli())))
	for k, t := range p.Recent {
		if t >= p.Through-window {
			recent[k] = t
		}
	}
	p.Recent = recent
}

func parsePosition(s string) (position, error) {
	p := position{Aliases: map[string]alias{}}
	if s == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true)); err != nil || s[0] != '{' {
		return p, fmt.Errorf("%.200q is not a cursor of a tracking server", s)
	}
	if p.Aliases == nil {
		p.Aliases = map[string]alias{}
	}
	return p, nil
}

func (p position) String() string {
	raw, err := schema.Canonical(p)
	if err != nil { // texts and numbers
		panic(err)
	}
	return string(raw)
}

// Observe implements ingest.Source: runs that ended, then versions of models,
// then what aliases point at.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		at, err := parsePosition(from)
		if err != nil {
			yield(ingest.Event{}, err)
			return
		}
		r := &reading{source: s, ctx: ctx, at: at, yield: yield}
		for _, step := range []func() error{r.runs, r.versions, r.aliases} {
			if err := step(); err != nil {
				if !errors.Is(err, errStop) {
					yield(ingest.Event{}, err)
				}
				return
			}
		}
		yield(ingest.Event{Cursor: r.at.String(), Listing: r.listing()}, nil)
	}
}

var errStop = errors.New("the caller stopped reading")

// reading is one read under way.
type reading struct {
	*source
	ctx    context.Context
	at     position
	yield  func(ingest.Event, error) bool
	listed []string
	known  map[string]modelVersion // by MODEL@VERSION
}

// give yields a statement, or what is wrong with what it was to be about, and
// moves on.
func (r *reading) give(st schema.Statement, err error, object string, raw []byte) error {
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	e := ingest.Event{Cursor: r.at.String()}
	if err != nil {
		e.Skipped = &ingest.Skip{Object: object, Reason: err, Digest: schema.BytesKey(raw)}
	} else {
		e.Statement = st
	}
	if !r.yield(e, nil) {
		return errStop
	}
	return nil
}

func (r *reading) runs() error {
	experiments, err := r.client.experiments(r.ctx, r.only)
	if err != nil {
		return err
	}
	if r.only != "" && len(experiments) == 0 {
		return fmt.Errorf("%s has no experiment called %q", r.client.base, r.only)
	}
	if len(experiments) == 0 {
		return nil
	}
	names := map[string]string{}
	for _, e := range experiments {
		names[e.ID] = e.Name
		r.listed = append(r.listed, "experiment "+e.ID)
	}
	since := max(0, r.at.Runs.Through-window)
	for found, err := range r.client.runs(r.ctx, experiments, since) {
		if err != nil {
			return err
		}
		run, err := parseRun(found.raw)
		if err != nil {
			if err := r.give(schema.Statement{}, err, "a run", found.raw); err != nil {
				return err
			}
			continue
		}
		if !run.ended() || r.at.Runs.has(run.Info.RunID, run.Info.Ended) {
			continue
		}
		r.at.Runs.note(run.Info.RunID, run.Info.Ended)
		st, err := run.statement(names[run.Info.ExperimentID])
		if err := r.give(st, err, "run "+run.Info.RunID, found.raw); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) versions() error {
	all, err := r.client.versions(r.ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b modelVersion) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	r.known = map[string]modelVersion{}
	for _, v := range all {
		id := v.Name + "@" + v.Version
		r.listed = append(r.listed, "version "+id)
		r.known[id] = v
		if v.Status != "READY" || r.at.Versions.has(id, v.Created) {
			continue
		}
		r.at.Versions.note(id, v.Created)
		st, err := v.statement()
		if err := r.give(st, err, "version "+id, []byte(id)); err != nil {
			return err
		}
	}
	return nil
}

// aliases gives those that point elsewhere than they did, each as a version of
// its model that moves.
func (r *reading) aliases() error {
	models, err := r.client.models(r.ctx)
	if err != nil {
		return err
	}
	now := map[string]string{}
	for _, m := range models {
		for _, a := range m.Aliases {
			if len(now) < maxAliases {
				now[m.Name+"@"+a.Alias] = a.Version
				r.listed = append(r.listed, "alias "+m.Name+"@"+a.Alias+" "+a.Version)
			}
		}
	}
	gone := slices.DeleteFunc(slices.Collect(maps.Keys(r.at.Aliases)), func(name string) bool { return now[name] != "" })
	for _, name := range slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(now)), gone...))) {
		was, to := r.at.Aliases[name], now[name]
		if was.Version == to {
			continue
		}
		model, alias, _ := strings.Cut(name, "@")
		version, ok := r.known[model+"@"+cmp.Or(to, was.Version)]
		if !ok && to != "" {
			continue // of a version that was made meanwhile: the next read sees it
		}
		if !ok {
			version = modelVersion{Name: model, Source: "models:/" + model + "/" + was.Version}
		}
		st, err := version.named(schema.Model{Name: model, Version: alias, Alias: true, Moved: was.Version != "" && to != "", Deleted: to == "", Previous: was.Previous})
		if err == nil {
			err = r.move(name, to, st)
		} else {
			r.at.Aliases[name] = aliasOf(to, was.Previous)
		}
		if err := r.give(st, err, "alias "+name, []byte(name+" "+to)); err != nil {
			return err
		}
	}
	return nil
}

func aliasOf(version, previous string) alias { return alias{Version: version, Previous: previous} }

// move remembers what an alias was said to point at.
func (r *reading) move(name, to string, st schema.Statement) error {
	raw, err := st.Encode()
	if err != nil {
		return err
	}
	r.at.Aliases[name] = aliasOf(to, schema.BytesKey(raw).Hex())
	return nil
}

// listing is what the server held: experiments, versions and aliases. Of runs
// only those are listed that ended not long before the last.
func (r *reading) listing() *ingest.Listing {
	slices.Sort(r.listed)
	h := sha256.New()
	for _, l := range r.listed {
		fmt.Fprintln(h, l)
	}
	return &ingest.Listing{Count: len(r.listed), Digest: schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil)))}
}
