package replay

import (
	"context"
	"fmt"

	"github.com/retrace-ledger/retrace/schema"
)

// maxUnexplained is how many erased bodies may await their erasure entry.
const maxUnexplained = 1 << 20

// hide replays an entry whose body is not here.
func (r *Replay) hide(d *document) error {
	r.hidden = d.Index
	if d.Index == 0 {
		r.find(0, KindGenesis, "its body is not here: without it nothing says whose ledger this is")
	}
	if d.State == schema.Withheld {
		r.report.withhold(d.Index)
		return nil
	}
	r.report.Erased++
	if len(r.unexplained) == maxUnexplained {
		return fmt.Errorf("replaying entry %d: %d erased bodies have no erasure entry yet; more are not kept in memory", d.Index, maxUnexplained)
	}
	r.unexplained[d.Index] = d.Commitment
	return nil
}

// erasure accounts for an erased body. Only the observer's word does.
func (r *Replay) erasure(ctx context.Context, log Log, d *document) error {
	if !r.trust.observed(d) {
		return nil
	}
	var p schema.Erasure
	if err := schema.DecodePredicate(d.statement, true, &p); err != nil {
		r.unreadable(d.Index, err.Error())
		return nil
	}
	if p.Index >= d.Index {
		r.find(d.Index, KindErasure, "it says that entry %d is erased, which comes after it", p.Index)
		return nil
	}
	c, erased := r.unexplained[p.Index]
	if !erased {
		// Its body was there when it was replayed, or is accounted for.
		e, err := log.Entry(ctx, p.Index)
		if err != nil {
			return fmt.Errorf("looking at entry %d, which entry %d erases: %w", p.Index, d.Index, err)
		}
		if e.State == schema.Present {
			r.find(d.Index, KindErasure, "it says that entry %d is erased, and the body of that entry is here", p.Index)
			return nil
		}
		c = e.Commitment
	}
	if want := schema.Key(fmt.Sprintf("%s:%x", schema.SHA256, c)); len(d.subjects) != 1 || d.subjects[0] != want {
		r.find(d.Index, KindErasure, "it erases entry %d, and is not about its commitment %x", p.Index, c)
		return nil
	}
	delete(r.unexplained, p.Index)
	return nil
}
