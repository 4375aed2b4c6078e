package content

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	kopiacontent "github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/content/index"
	"github.com/kopia/kopia/repo/content/indexblob"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/repo/object"

	"github.com/retrace-ledger/retrace/schema"
)

// Holding is who has a folder kept.
type Holding struct {
	Kept   bool // its bytes are there
	Good   bool // for good, which nothing ends
	Mine   bool // for the holder that was asked about
	Others bool // for others: other sources, or other ledgers of the store
}

// Holding says who has the folder of key kept.
func (s *Store) Holding(_ context.Context, key schema.Key, holder string) (Holding, error) {
	r, _, err := s.lookup(key)
	if errors.Is(err, ErrNotKept) {
		return Holding{}, nil
	}
	if err != nil {
		return Holding{}, err
	}
	mine, others := s.keys.holds(key, s.holderID(holder))
	return Holding{Kept: true, Good: r.kind != kindHeld, Mine: mine, Others: others > 0}, nil
}

// Release ends that the folders of keys are kept for holder. Their bytes go with
// the next Collect, unless somebody else has them kept.
func (s *Store) Release(ctx context.Context, holder string, keys []schema.Key) error {
	var lines []line
	for _, k := range keys {
		_, _, err := s.lookup(k)
		if err != nil && !errors.Is(err, ErrNotKept) {
			return err
		}
		if mine, _ := s.keys.holds(k, s.holderID(holder)); err == nil && mine {
			lines = append(lines, line{k, record{kind: kindLetGo, handle: s.holderID(holder)}})
		}
	}
	if len(lines) == 0 {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.record(ctx, lines...)
}

// ErrRemote says that a store in an object store is not collected.
var ErrRemote = errors.New("nothing is collected in an object store: other machines may be writing to it")

// Collected says what Collect did.
type Collected struct {
	Folders int   // that are kept no more
	Files   int   // that are kept no more
	Needed  int   // files that are kept for good now, because they are needed
	Before  int64 // bytes of the repository
	After   int64
}

// Collect removes from the disk what nobody has kept any more: folders that all
// their holders released, and the files that were in no other. needed is asked
// for each of those files whether something else wants it; then it is kept for
// good.
//
// Nobody reads or writes the store meanwhile; they wait. A crash, or an error,
// leaves a store in which all that is kept is whole, and perhaps bytes that the
// next Collect removes.
func (s *Store) Collect(ctx context.Context, needed func(schema.Key) (bool, error)) (Collected, error) {
	var c Collected
	if s.remote != nil {
		return c, ErrRemote
	}
	made, err := s.made()
	if err != nil || !made {
		return c, err
	}
	leave, err := s.enterAlone()
	if err != nil {
		return c, err
	}
	defer leave()
	rep, err := s.repository(ctx, false)
	if err != nil {
		return c, err
	}
	if err := s.afresh(ctx); err != nil {
		return c, err
	}
	if err := rep.rep.Refresh(ctx); err != nil {
		return c, fmt.Errorf("collecting in %s: %w", s.dir, err)
	}
	cut, err := s.unfinished()
	if err != nil {
		return c, err
	}
	if err := writeDurably(s.collecting(), nil); err != nil {
		return c, err
	}
	l := &living{rep: rep, pages: map[string]bool{}, contents: map[kopiacontent.ID]bool{}, files: map[schema.Key]bool{}}
	records := map[schema.Key]record{}
	if bad, err := s.keys.each(func(k schema.Key, r record) { records[k] = r }); err != nil {
		return c, err
	} else if bad > 0 {
		return c, fmt.Errorf("collecting in %s: %d lines of its keys are damaged, so that what is to be kept is not known; see retrace fsck --content", s.dir, bad)
	}
	if err := s.forget(ctx, l, records, needed, &c); err != nil {
		return c, fmt.Errorf("collecting in %s: %w", s.dir, err)
	}
	if err := s.remove(ctx, l, cut, &c); err != nil {
		return c, fmt.Errorf("collecting in %s: %w", s.dir, err)
	}
	return c, os.Remove(s.collecting())
}

// collecting is a file that is there while files of the repository go on
// purpose that are still listed with their checksums.
func (s *Store) collecting() string { return filepath.Join(s.dir, "collecting") }

// unfinished says whether a collection goes on, or was cut off.
func (s *Store) unfinished() (bool, error) {
	_, err := os.Stat(s.collecting())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// forget finds out what is alive and takes away the keys of what is not.
func (s *Store) forget(ctx context.Context, l *living, records map[schema.Key]record, needed func(schema.Key) (bool, error), c *Collected) error {
	var folders, files []line
	for k, r := range records {
		_, others := s.keys.holds(k, "")
		switch {
		case r.kind == kindHeld && others == 0:
			folders = append(folders, line{k, record{kind: kindGone, handle: "-"}})
		case r.folder():
			if err := l.folder(ctx, k, r.handle); err != nil {
				return err
			}
		case r.kind == kindFile:
			if err := l.object(ctx, r.handle); err != nil {
				return err
			}
		}
	}
	for k, r := range records {
		if r.kind != kindMember || l.files[k] {
			continue
		}
		wanted, err := needed(k)
		if err != nil {
			return err
		}
		gone := record{kind: kindGone, handle: "-"}
		if wanted {
			if err := l.object(ctx, r.handle); err != nil {
				return err
			}
			c.Needed++
			gone = record{kind: kindFile, size: r.size, handle: r.handle}
		} else {
			c.Files++
		}
		files = append(files, line{k, gone})
	}
	c.Folders = len(folders)
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	// Folders first: one that lost files and not its own key would seem whole.
	for _, lines := range [][]line{folders, files} {
		if len(lines) > 0 {
			if err := s.keys.add(lines...); err != nil {
				return err
			}
		}
		if err := s.stepped(); err != nil {
			return err
		}
	}
	return nil
}

// stepped is where tests end a collection.
func (s *Store) stepped() error {
	if s.step == nil {
		return nil
	}
	return s.step()
}

// living is what must stay.
type living struct {
	rep      *repository
	pages    map[string]bool // whose contents were noted
	contents map[kopiacontent.ID]bool
	files    map[schema.Key]bool
}

func (l *living) folder(ctx context.Context, k schema.Key, handle string) error {
	if l.pages[handle] {
		return nil
	}
	l.pages[handle] = true
	if err := l.object(ctx, handle); err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	p, err := l.rep.page(ctx, handle)
	if err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	for _, m := range p.Members {
		switch {
		case m.Type == typeFile:
			l.files[schema.Key(schema.SHA256+":"+m.SHA256)] = true
			err = l.object(ctx, m.Object)
		case m.Type == typeFolder && m.Object != "":
			err = l.folder(ctx, k, m.Object)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// object notes the contents that an object is made of.
func (l *living) object(ctx context.Context, handle string) error {
	if l.pages["o"+handle] {
		return nil
	}
	l.pages["o"+handle] = true
	id, err := object.ParseID(handle)
	if err != nil {
		return err
	}
	contents, err := l.rep.rep.VerifyObject(ctx, id)
	if err != nil {
		return fmt.Errorf("what is to be kept is not whole: %w", err)
	}
	for _, c := range contents {
		l.contents[c] = true
	}
	return nil
}

// remove takes what is not alive off the disk. Where the collection before was
// cut off, what is missing is what that one took.
func (s *Store) remove(ctx context.Context, l *living, cut bool, c *Collected) (err error) {
	direct, ok := l.rep.rep.(repo.DirectRepository)
	if !ok {
		return errors.New("the repository cannot be collected from here")
	}
	before, err := s.blobSizes(ctx, direct)
	if err != nil {
		return err
	}
	started := time.Now()
	wctx, w, err := direct.NewDirectWriter(ctx, repo.WriteSessionOptions{Purpose: "retrace collect"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(context.WithoutCancel(ctx))) }()
	var dead []kopiacontent.ID
	mark := time.Now().Unix() + 1
	err = w.ContentReader().IterateContents(wctx, kopiacontent.IterateOptions{}, func(i kopiacontent.Info) error {
		if !l.contents[i.ContentID] && i.ContentID.Prefix() != manifest.ContentPrefix {
			dead = append(dead, i.ContentID)
			mark = max(mark, i.TimestampSeconds+1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Whoever enters from now on reads the index again, and writes with a later
	// time than that of anything that is deleted.
	if len(dead) == 0 {
		mark, err = parseMark(s.collected)
	}
	if err == nil {
		err = s.setMark(mark)
	}
	if err != nil {
		return err
	}
	for _, id := range dead {
		if err := w.ContentManager().DeleteContent(wctx, id); err != nil {
			return err
		}
	}
	// The index forgets what is dead, what is alive in packs that are mostly not
	// moves to new ones, and all of that is durable before the old packs go.
	forget := indexblob.CompactOptions{DropDeletedBefore: time.Unix(mark, 0)}
	short := &maintenance.RewriteContentsOptions{ContentIDRange: index.AllIDs, ShortPacks: true}
	for _, step := range []func() error{
		func() error { return w.Flush(wctx) },
		func() error { return waitPast(ctx, mark) },
		func() error {
			if len(dead) == 0 {
				return nil
			}
			return w.ContentManager().CompactIndexes(wctx, forget)
		},
		func() error { return maintenance.RewriteContents(wctx, w, short, maintenance.SafetyNone) },
		func() error { return w.Flush(wctx) },
		func() error { return errors.Join(mergeIndex(wctx, w), cleanIndex(wctx, w)) },
		func() error { return syncBlobs(ctx, s.blobs(), s.marker(), s.sums(), started) },
		func() error {
			opts := maintenance.DeleteUnreferencedBlobsOptions{Parallel: transfers}
			_, err := maintenance.DeleteUnreferencedBlobs(wctx, w, opts, maintenance.SafetyNone)
			return err
		},
	} {
		if err := step(); err != nil {
			return err
		}
		if err := s.stepped(); err != nil {
			return err
		}
	}
	after, err := s.blobSizes(ctx, direct)
	if err != nil {
		return err
	}
	for id, size := range before {
		c.Before += size
		if _, ok := after[id]; ok {
			delete(before, id)
		}
	}
	for _, size := range after {
		c.After += size
	}
	err = s.sums().drop(func(name string) bool {
		id := blob.ID(strings.TrimSuffix(strings.ReplaceAll(name, "/", ""), ".f"))
		_, gone := before[id]
		_, here := after[id]
		return gone || cut && !here
	})
	if err != nil {
		return err
	}
	return direct.Refresh(ctx)
}

// The index merges what is said of a piece of content by time, in seconds, and
// does not see a deletion from before the watermark that Collect sets. What is
// written again has to be later than its deletion, or it would be forgotten
// with it: the mark says what time it must be. It also says that what was read
// of the index is not so any more.

// setMark sets the mark: Unix time in seconds.
func (s *Store) setMark(mark int64) error {
	return writeDurably(s.collections(), fmt.Appendf(nil, "%d %s\n", mark, rand.Text()))
}

// parseMark reads what setMark wrote; 0 stands for none.
func parseMark(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	first, _, _ := strings.Cut(text, " ")
	mark, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the mark of the last collection is damaged: %q", first)
	}
	return mark, nil
}

// maxWait is how far the clocks of two machines that share a store may differ.
const maxWait = 10 * time.Second

// waitPast waits until the clock is past mark.
func waitPast(ctx context.Context, mark int64) error {
	wait := time.Until(time.Unix(mark+1, 0))
	if wait > maxWait {
		return fmt.Errorf("the clock is %s before the time of the last collection in the content store: set it right", wait.Round(time.Second))
	}
	if wait <= 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// manyIndexes is how many pieces of the index make it worth merging them: each is
// read whenever the store is opened, and every session writes one.
const manyIndexes = 64

// mergeIndex has kopia merge the pieces of its index that are old enough. Others
// may write meanwhile.
func mergeIndex(ctx context.Context, w repo.DirectRepositoryWriter) error {
	pieces, err := w.IndexBlobs(ctx, false)
	if err != nil || len(pieces) < manyIndexes {
		return err
	}
	epochs, ok, err := w.ContentManager().EpochManager(ctx)
	if err != nil || !ok {
		return err
	}
	for _, step := range []func(context.Context) error{epochs.MaybeCompactSingleEpoch, epochs.MaybeAdvanceWriteEpoch, epochs.MaybeGenerateRangeCheckpoint} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("merging the index: %w", err)
		}
	}
	return nil
}

// cleanIndex removes pieces of the index that were merged hours ago.
func cleanIndex(ctx context.Context, w repo.DirectRepositoryWriter) error {
	epochs, ok, err := w.ContentManager().EpochManager(ctx)
	if err != nil || !ok {
		return err
	}
	for _, step := range []func(context.Context) error{epochs.CleanupMarkers, epochs.CleanupSupersededIndexes} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("cleaning the index: %w", err)
		}
	}
	return nil
}

// blobSizes are the sizes of the files of the repository, by kopia's names.
func (s *Store) blobSizes(ctx context.Context, direct repo.DirectRepository) (map[blob.ID]int64, error) {
	sizes := map[blob.ID]int64{}
	err := direct.BlobReader().ListBlobs(ctx, "", func(m blob.Metadata) error {
		sizes[m.BlobID] = m.Length
		return nil
	})
	return sizes, err
}
