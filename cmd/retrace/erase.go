package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

const eraseLong = `Remove the body of an entry for good, and record in the same commit that it was
removed, by whom and why. The entry keeps its place and its commitment, so that the
tree, every checkpoint, every proof and every bundle made before still verify. What
the entry stated is gone from all answers; resources that other entries mention too
show as erased, with the gap erased.

The bytes stay in the files of the store until --purge writes them anew, which needs
the ledger for itself: stop the server first. Copies elsewhere are out of reach:
docs/erase.md lists them.`

type eraseFlags struct {
	reason, by string
	purge, yes bool
}

func (a *app) eraseCmd() *cobra.Command {
	var f eraseFlags
	cmd := &cobra.Command{
		Use:     "erase [entry:INDEX]",
		Short:   "Remove the body of an entry for good, and record that and why",
		Long:    eraseLong,
		Example: "  retrace erase entry:26 --reason 'personal data, request 2026-17'\n  retrace erase entry:26 --reason 'personal data, request 2026-17' --purge --yes\n  retrace erase --purge",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if len(args) == 0 && !f.purge {
				return cannot(errors.New("which entry? give entry:INDEX, or --purge alone to rewrite the store after earlier erasures"))
			}
			return a.runErase(cmd, args, f)
		},
	}
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, in words that may stay `TEXT`")
	cmd.Flags().StringVar(&f.by, "by", "", "who asked for it; you, if left out `WHO`")
	cmd.Flags().BoolVar(&f.purge, "purge", false, "rewrite the store and the index, so that no file of the ledger has the bytes")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) runErase(cmd *cobra.Command, args []string, f eraseFlags) error {
	ctx := cmd.Context()
	if a.server != "" {
		return cannot(errors.New("an erasure is signed by the ledger's own key: run `retrace erase` on the machine where the ledger is; it goes through the server there"))
	}
	dir, err := a.findDir()
	if err != nil {
		return err
	}
	if f.purge {
		if c, running, err := discover(ctx, dir); err != nil {
			return err
		} else if running {
			return cannot(&hinted{
				fmt.Errorf("--purge needs the ledger for itself, and a server at %s holds it", c.Address()),
				"stop the server and run it again; without --purge, erasing goes through the server, and `retrace erase --purge` can follow later",
			})
		}
	}
	var done *erased
	if len(args) == 1 {
		index, err := entryIndex(args[0])
		if err != nil {
			return cannot(err)
		}
		if done, err = a.erase(cmd, index, f); err != nil {
			return err
		}
	}
	if f.purge {
		if err := purge(ctx, dir); err != nil {
			return cannot(err)
		}
	}
	return a.printErased(cmd, dir, done, f.purge)
}

// entryIndex reads entry:INDEX or #INDEX.
func entryIndex(text string) (int64, error) {
	for _, prefix := range []string{"entry:", "#"} {
		if digits, ok := strings.CutPrefix(text, prefix); ok {
			if index, err := strconv.ParseInt(digits, 10, 64); err == nil && index >= 0 {
				return index, nil
			}
		}
	}
	return 0, &hinted{fmt.Errorf("%q is not an entry: want entry:INDEX", text), "`retrace log` lists entries, and `retrace show REF` the entries about a resource"}
}

// erased is what an erasure removes, and what was done.
type erased struct {
	Entry     int64        `json:"entry"` // that has no body any more
	By        int64        `json:"by"`    // entry that says so
	Size      int64        `json:"size"`
	Resources []schema.Key `json:"resources"` // that other entries mention
	Content   []schema.Key `json:"content"`   // kept bytes that no other entry mentions

	info    lineage.EntryInfo
	facts   *schema.Facts
	others  int // entries that mention Resources
	unnamed int // of Resources, beyond what one erasure can name
}

// erase shows what will go, asks, and does it.
func (a *app) erase(cmd *cobra.Command, index int64, f eraseFlags) (*erased, error) {
	ctx := cmd.Context()
	if f.reason == "" {
		return nil, cannot(errors.New("--reason is missing: the entry that says that this one was erased says why"))
	}
	b, err := a.open(ctx)
	if err != nil {
		return nil, cannot(err)
	}
	defer b.Close()
	if b.observer == nil {
		return nil, cannot(fmt.Errorf("%s has no %s: %w", b.dir, observerKey, ledger.ErrReadOnly))
	}
	e, err := b.log.Entry(ctx, index)
	if err != nil {
		return nil, cannot(err)
	}
	v, err := b.view(0, "")
	if err != nil {
		return nil, cannot(err)
	}
	if index == 0 {
		return nil, cannot(&ledger.KeepError{Index: 0, Reason: "it is the genesis, which says whose ledger this is"})
	}
	if e.State != schema.Present {
		return nil, cannot(fmt.Errorf("entry %d has no body: %s", index, goneBecause(v, index, e.State)))
	}
	d, err := b.concerned(ctx, v, e)
	if err != nil {
		return nil, cannot(err)
	}
	if err := d.show(cmd.ErrOrStderr()); err != nil {
		return nil, err
	}
	if ok, err := confirmErase(cmd, index, f.yes); err != nil || !ok {
		return nil, cannot(err)
	}
	s, err := d.statement(e, f)
	if err != nil {
		return nil, cannot(err)
	}
	env, err := b.observer.SignStatement(s)
	if err != nil {
		return nil, cannot(err)
	}
	r, err := b.log.Erase(ctx, index, env)
	if err != nil {
		return nil, cannot(err)
	}
	d.By, d.Size = r.Entries[0].Index, r.Size
	if err := b.graph.Follow(ctx, b.log); err != nil {
		return nil, cannot(fmt.Errorf("entry %d is erased, says entry %d; bringing the lineage index up to it: %w", index, d.By, err))
	}
	return d, nil
}

// concerned finds whose picture changes when e goes.
func (b *book) concerned(ctx context.Context, v *lineage.View, e schema.Entry) (*erased, error) {
	d := &erased{Entry: e.Index, Resources: []schema.Key{}, Content: []schema.Key{}, facts: &schema.Facts{}}
	var err error
	if d.info, err = v.Entry(e.Index); err != nil {
		return nil, err
	}
	if s, err := e.Envelope.Statement(); err == nil {
		if facts, err := s.Facts(); err == nil {
			d.facts = facts
		}
	}
	others := map[int64]bool{}
	for _, r := range d.facts.Resources {
		if isTool(d.facts.Step, r.Key) {
			continue // what is told of a program has no hole for one run less
		}
		mentions, err := v.Mentions(r.Key)
		if err != nil {
			return nil, err
		}
		mentions = slices.DeleteFunc(mentions, func(i int64) bool { return i == e.Index })
		if len(mentions) > 0 {
			d.Resources = append(d.Resources, r.Key)
			for _, i := range mentions {
				others[i] = true
			}
			continue
		}
		kept, err := b.store.Has(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		if kept {
			d.Content = append(d.Content, r.Key)
		}
	}
	d.others = len(slices.Collect(maps.Keys(others)))
	slices.Sort(d.Resources)
	if n := len(d.Resources) - schema.MaxSubjects; n > 0 {
		d.Resources, d.unnamed = d.Resources[:schema.MaxSubjects], n
	}
	return d, nil
}

// isTool says whether a step ran the program k.
func isTool(s *schema.Step, k schema.Key) bool {
	return s != nil && slices.ContainsFunc(s.Uses, func(u schema.Use) bool { return u.Key == k && u.Role == schema.RoleTool })
}

// shownResources is how many of many are listed.
const shownResources = 10

func (d *erased) show(w io.Writer) error {
	fmt.Fprintf(w, "retrace: about to erase entry %d:\n", d.Entry)
	t := newTable(w)
	t.row("  type", shortPredicateType(d.info.PredicateType))
	t.row("  recorded", when(d.info.RecordedAt))
	t.row("  namespace", d.info.Namespace)
	t.field("  summary", clipTo(d.info.Summary, 80))
	for i, k := range d.facts.Subjects {
		if i == shownResources {
			t.row("  ", fmt.Sprintf("and %d more", len(d.facts.Subjects)-i))
			break
		}
		t.row("  about", k.Short())
	}
	for _, n := range d.facts.Names {
		t.row("  names", n.Name)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "  of the %s that it mentions, %d stay known through %s and will show as erased\n",
		count(len(d.facts.Resources), "resource", "resources"), len(d.Resources)+d.unnamed, count(d.others, "other entry", "other entries"))
	if d.unnamed > 0 {
		fmt.Fprintf(w, "  the erasure can name %d of them; %d will not show as erased\n", len(d.Resources), d.unnamed)
	}
	return nil
}

// confirmErase asks on a terminal.
func confirmErase(cmd *cobra.Command, index int64, yes bool) (bool, error) {
	if yes {
		return true, nil
	}
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !isTerminal(in) {
		return false, errors.New("not erased: there is no terminal to ask on; give --yes to erase it")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "It cannot be brought back. Erase entry %d? [y/N] ", index)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	if answer != "y" && answer != "yes" {
		return false, errors.New("not erased")
	}
	return true, nil
}

// statement says that e is erased.
func (d *erased) statement(e schema.Entry, f eraseFlags) (schema.Statement, error) {
	by := f.by
	if by == "" {
		if u, err := user.Current(); err == nil {
			by = u.Username
		}
	}
	about := schema.Descriptor{Name: fmt.Sprintf("entry %d", e.Index), Digest: schema.DigestSet{schema.SHA256: hex.EncodeToString(e.Commitment[:])}}
	return schema.NewStatement(schema.ErasureV1, schema.Erasure{Index: e.Index, Reason: f.reason, By: by, Resources: d.Resources}, about)
}

// goneBecause says why an entry has no body.
func goneBecause(v *lineage.View, index int64, s schema.State) string {
	if h, ok := v.ErasureOf(index); ok {
		return "erased by entry " + strconv.FormatInt(h.By, 10) + becauseOf(h)
	}
	return strings.ToLower(string(s))
}

// holeText is a hole in what is told of a resource, in words.
func holeText(h lineage.Hole) string {
	return fmt.Sprintf("entry %d mentioned it and was erased by entry %d", h.Entry, h.By) + becauseOf(h)
}

func becauseOf(h lineage.Hole) string {
	if h.Asked != "" {
		return ": " + h.Reason + " (" + h.Asked + ")"
	}
	return ": " + h.Reason
}

// sayHoles says what an answer lacks.
func sayHoles(w io.Writer, l *lineage.Lineage) {
	for _, r := range l.Resources {
		for _, h := range l.Holes[r.Key] {
			name := r.Name
			if name == "" {
				name = r.Key.Short()
			}
			fmt.Fprintf(w, "retrace: %s: %s\n", printable(name), printable(holeText(h)))
		}
	}
	sayBodiless(w, l.Bodiless)
}

// sayBodiless says how many entries an answer could not read.
func sayBodiless(w io.Writer, n int) {
	if n > 0 {
		fmt.Fprintf(w, "retrace: %s without a body, erased or withheld: what they state is in no answer\n", count(n, "entry is", "entries are"))
	}
}
