package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

func TestRefMovesForthAndBack(t *testing.T) {
	dir := newRepository(t)
	a := runGit(t, dir, "", "rev-parse", "HEAD")
	b := commit(t, dir, "second")
	w := watch(t, dir, "?ref=main")
	var want []refFact
	old, previous := "", ""
	for i, at := range []string{a, b, a, b} {
		runGit(t, dir, "", "reset", "-q", "--hard", at)
		w.once(t)
		want = append(want, refFact{Commit: at, Ref: schema.Ref{
			Repository: "git+file://" + dir, Ref: "refs/heads/main", Old: old, Previous: previous,
			Forced: i == 2, // only B→A loses a commit
		}})
		old = at
		facts := w.refs(t)
		if len(facts) != i+1 {
			t.Fatalf("after %d moves there are %d ref facts", i+1, len(facts))
		}
		previous = facts[i].Digest
		want[i].Digest = previous
		w.once(t) // reading again is no fact
	}
	if diff := cmp.Diff(want, w.refs(t)); diff != "" {
		t.Errorf("ref facts (-want +got):\n%s", diff)
	}
	if n := len(w.commits(t)); n != 2 {
		t.Errorf("%d commit facts, want 2", n)
	}
}

func TestForcePush(t *testing.T) {
	dir := newRepository(t)
	base := runGit(t, dir, "", "rev-parse", "HEAD")
	lost := commit(t, dir, "lost")
	w := watch(t, dir, "")
	w.once(t)
	runGit(t, dir, "", "reset", "-q", "--hard", base)
	rewritten := commit(t, dir, "rewritten")
	// As after the server collected its garbage: the old commit is gone.
	runGit(t, dir, "", "reflog", "expire", "--expire=now", "--all")
	runGit(t, dir, "", "gc", "-q", "--prune=now")
	// With the old commit gone, nothing tells that its parent was stated.
	if p := w.once(t); p.Recorded != 2 || p.Duplicates != 1 {
		t.Errorf("a rewritten branch gives %+v, want one commit and one ref, and one commit that is known", p)
	}
	facts := w.refs(t)
	if got := facts[len(facts)-1]; !got.Forced || got.Old != lost || got.Commit != rewritten {
		t.Errorf("the last fact about main is %+v, want forced from %s to %s", got, lost, rewritten)
	}
}

func TestDeletedAndBornAgain(t *testing.T) {
	dir := newRepository(t)
	at := runGit(t, dir, "", "rev-parse", "HEAD")
	w := watch(t, dir, "?ref=topic")
	for range 2 {
		runGit(t, dir, "", "branch", "topic")
		w.once(t)
		runGit(t, dir, "", "branch", "-D", "topic")
		w.once(t)
	}
	facts := w.refs(t)
	if len(facts) != 4 {
		t.Fatalf("created, deleted, created, deleted: %d facts", len(facts))
	}
	for i, f := range facts {
		if f.Deleted != (i%2 == 1) || f.Commit != at || f.Forced {
			t.Errorf("fact %d is %+v", i, f)
		}
		if i > 0 && f.Previous != facts[i-1].Digest {
			t.Errorf("fact %d names %q as the one before, that is %q", i, f.Previous, facts[i-1].Digest)
		}
	}
}

func TestAnnotatedTag(t *testing.T) {
	dir := newRepository(t)
	at := runGit(t, dir, "", "rev-parse", "HEAD")
	runGit(t, dir, "", "tag", "-a", "-m", "inner", "inner")
	runGit(t, dir, "", "tag", "-a", "-m", "outer", "outer", "inner")
	w := watch(t, dir, "?ref=tags/outer")
	w.once(t)
	facts := w.refs(t)
	if len(facts) != 1 || facts[0].Commit != at || facts[0].TagObject != runGit(t, dir, "", "rev-parse", "outer") {
		t.Fatalf("a tag of a tag gives %+v, want commit %s", facts, at)
	}
	// Tagging the same commit again makes another tag object, and is a fact.
	runGit(t, dir, "", "tag", "-f", "-a", "-m", "again", "outer", "inner")
	w.once(t)
	facts = w.refs(t)
	if len(facts) != 2 || facts[1].Forced || facts[1].Old != at || facts[1].Commit != at {
		t.Errorf("tagging again gives %+v", facts)
	}
}

func TestRefToNoCommit(t *testing.T) {
	dir := newRepository(t)
	at := runGit(t, dir, "", "rev-parse", "HEAD")
	runGit(t, dir, "", "tag", "blob", "HEAD:first")
	w := watch(t, dir, "?ref=tags/blob")
	if p := w.once(t); p.Skipped != 1 || len(w.skips) != 1 || !strings.Contains(w.skips[0].Reason.Error(), "points at a blob") {
		t.Errorf("a tag of a blob gives %+v and the skips %v", p, w.skips)
	}
	if p := w.once(t); p.Skipped != 0 {
		t.Errorf("reading again gives %+v, the tag was reported before", p)
	}
	runGit(t, dir, "", "tag", "-f", "blob", at)
	w.once(t)
	runGit(t, dir, "", "tag", "-f", "blob", at+":first")
	w.once(t)
	runGit(t, dir, "", "tag", "-d", "blob")
	w.once(t)
	runGit(t, dir, "", "tag", "blob", at)
	w.once(t)
	facts := w.refs(t)
	if len(facts) != 2 || facts[0].Old != "" || facts[0].Forced || facts[1].Old != "" || facts[1].Previous != facts[0].Digest {
		t.Errorf("tag facts are %+v, want two of the commit, chained", facts)
	}
}

func TestCommitFact(t *testing.T) {
	dir := newRepository(t)
	tree := runGit(t, dir, "", "rev-parse", "HEAD^{tree}")
	parent := runGit(t, dir, "", "rev-parse", "HEAD")
	signature := "-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"
	raw := "tree " + tree + "\nparent " + parent + "\nauthor Ada <ada@example.com> 1700000000 -0330\ncommitter Bob <bob@example.com> 1700000060 +0100\n" +
		"gpgsig " + strings.ReplaceAll(strings.TrimSuffix(signature, "\n"), "\n", "\n ") + "\n\nsigned\n\nbody\n"
	id := runGit(t, dir, raw, "hash-object", "-t", "commit", "-w", "--stdin")
	runGit(t, dir, "", "update-ref", "refs/heads/main", id)
	w := watch(t, dir, "")
	w.once(t)
	got, ok := w.commits(t)[id]
	if !ok {
		t.Fatalf("commit %s was not recorded", id)
	}
	if got.Tree != tree || len(got.Parents) != 1 || got.Parents[0] != parent || got.Message != "signed\n\nbody\n" {
		t.Errorf("commit fact is %+v", got)
	}
	if got.Author.Name != "Ada" || got.Author.When.Format("2006-01-02T15:04:05-07:00") != "2023-11-14T18:43:20-03:30" {
		t.Errorf("author is %+v, want Ada in her own zone", got.Author)
	}
	if strings.TrimSpace(got.Signature) != strings.TrimSpace(signature) {
		t.Errorf("signature is %q, want %q", got.Signature, signature)
	}
}

// TestOddCommits records what can be recorded and skips the rest, and neither
// hides the history behind it.
func TestOddCommits(t *testing.T) {
	dir := newRepository(t)
	tree := runGit(t, dir, "", "rev-parse", "HEAD^{tree}")
	at := runGit(t, dir, "", "rev-parse", "HEAD")
	odd := func(author, rest string) string {
		raw := "tree " + tree + "\nparent " + at + "\n" + author + rest
		at = runGit(t, dir, raw, "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
		return at
	}
	person := func(rest string) string { return "author A <a> " + rest + "\ncommitter A <a> " + rest + "\n" }
	recorded := map[string]string{
		"latin-1":        odd(person("1700000000 +0000"), "encoding ISO-8859-1\n\ncaf\xe9\n"),
		"long message":   odd(person("1700000000 +0000"), "\n"+strings.Repeat("ä", 100000)),
		"zone of a day":  odd(person("1700000000 +9959"), "\nx\n"),
		"clock at zero":  odd(person("0 +0000"), "\nx\n"),
		"clock of ahead": odd(person("4102444800 +0000"), "\nx\n"),
		"empty":          odd(person("1700000000 +0000"), "\n"),
		"NUL":            odd(person("1700000000 +0000"), "\na\x00b\n"),
	}
	skipped := map[string]string{
		"year 300000": odd(person("9404264000000 +0000"), "\nx\n"),
	}
	runGit(t, dir, "", "update-ref", "refs/heads/main", at)
	w := watch(t, dir, "")
	w.once(t)
	commits := w.commits(t)
	for name, id := range recorded {
		if _, ok := commits[id]; !ok {
			t.Errorf("%s: commit %s was not recorded; skipped were %v", name, id, w.skips)
		}
	}
	if m := commits[recorded["long message"]].Message; len(m) > maxMessage+100 || !strings.HasSuffix(m, "[retrace: cut here, 65536 of 200000 bytes]") {
		t.Errorf("a message of 200000 bytes became %d, ending in %q", len(m), m[max(0, len(m)-60):])
	}
	if m := commits[recorded["latin-1"]].Message; m != "caf\ufffd\n" {
		t.Errorf("a message that is not UTF-8 became %q", m)
	}
	for name, id := range skipped {
		if _, ok := commits[id]; ok {
			t.Errorf("%s: commit %s was recorded", name, id)
		}
		if len(w.skips) != len(skipped) || !strings.Contains(w.skips[0].Object, id) {
			t.Errorf("%s: skips are %v", name, w.skips)
		}
	}
	if len(commits) != len(recorded)+1 {
		t.Errorf("%d commits recorded, want %d", len(commits), len(recorded)+1)
	}
}

func TestOnlyNewCommits(t *testing.T) {
	dir := newRepository(t)
	for i := range 5 {
		commit(t, dir, fmt.Sprint(i))
	}
	w := watch(t, dir, "")
	w.once(t)
	// A branch from the middle, with a merge that brings in an old commit.
	runGit(t, dir, "", "checkout", "-q", "-b", "side", "HEAD~3")
	commit(t, dir, "side")
	runGit(t, dir, "", "merge", "-q", "--no-ff", "-m", "merge", "main")
	p := w.once(t)
	if p.Recorded != 3 || p.Duplicates != 0 {
		t.Errorf("two new commits and a ref give %+v", p)
	}
	// A new name for what is known is one fact.
	runGit(t, dir, "", "branch", "alias", "HEAD~1")
	if p := w.once(t); p.Recorded != 1 || p.Duplicates != 0 {
		t.Errorf("a new name gives %+v", p)
	}
}

func TestParentsFirst(t *testing.T) {
	dir := newHistory(t)
	w := watch(t, dir, "")
	w.once(t)
	seen := map[string]bool{}
	refs := false
	for _, payload := range w.payloads(t, schema.CommitV1) {
		s := parse(t, payload)
		f, err := s.Facts()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Relations {
			if r.Kind == schema.RelParent && !seen[r.To.Hex()] {
				t.Errorf("%s comes before its parent %s", r.From, r.To)
			}
		}
		seen[s.Subject[0].Digest[schema.GitCommit]] = true
	}
	all, err := w.log.Payloads(schema.CommitV1, schema.RefV1)
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range all {
		isRef := parse(t, payload).PredicateType == schema.RefV1
		if refs && !isRef {
			t.Error("a commit comes after a ref")
		}
		refs = refs || isRef
	}
}

func TestShallow(t *testing.T) {
	dir := newHistory(t)
	shallow := filepath.Join(t.TempDir(), "shallow")
	runGit(t, t.TempDir(), "", "clone", "-q", "--depth=2", "--branch=main", "file://"+dir, shallow)
	w := watch(t, shallow, "")
	w.once(t)
	if n := len(w.commits(t)); n == 0 || n > 4 {
		t.Errorf("a clone of depth 2 gives %d commits", n)
	}
}

func TestCredentialsStayOut(t *testing.T) {
	dir := newHistory(t)
	server := serve(t, filepath.Dir(dir))
	rawURL := strings.Replace(server.URL, "http://", "git+http://ada:hunter2@", 1) + "/repo"
	env := ingest.Env{Cache: t.TempDir()}
	src, name, err := Open(t.Context(), ingest.Place{URL: rawURL}, env)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{name}
	for e, err := range src.Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		raw, err := e.Statement.Encode()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(raw), e.Cursor)
	}
	server.Close()
	for _, err := range src.Observe(t.Context(), "") {
		if err == nil {
			t.Error("a server that is gone gives events")
		} else {
			texts = append(texts, err.Error())
		}
	}
	for _, text := range texts {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "ada:") {
			t.Errorf("the password is in %q", text)
		}
	}
	err = filepath.WalkDir(env.Cache, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		if strings.Contains(string(raw), "hunter2") {
			t.Errorf("the password is in %s", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSHA256Refused(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "repo")
	runGit(t, root, "", "init", "-q", "-b", "main", "--object-format=sha256", dir)
	commit(t, dir, "first")
	server := serve(t, root)
	for _, rawURL := range []string{"git+file://" + dir, "git+" + server.URL + "/repo"} {
		for _, err := range open(t, rawURL, ingest.Env{}).Observe(t.Context(), "") {
			if err == nil || !strings.Contains(err.Error(), "SHA-256 object format") {
				t.Errorf("%s: %v, want a reason that names the object format", rawURL, err)
			}
		}
	}
}
