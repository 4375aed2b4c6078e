package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/codenotary/immudb/embedded/htree"
	"github.com/codenotary/immudb/embedded/store"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// proof is what a proof of one of so many entries costs. Times are medians, in
// microseconds, warm.
type proof struct {
	Name     string  `json:"name"`
	Entries  int     `json:"entries"`
	MadeUs   float64 `json:"madeUs"`
	ReadUs   float64 `json:"readUs"`   // made, and the entry read
	VerifyUs float64 `json:"verifyUs"` // the entry hashed, and led to the root
	Bytes    int     `json:"bytes"`    // of the longest one's hashes
	Signed   bool    `json:"signed"`   // a signature of the root is verified as well
}

// prover makes proofs for the entries of one log.
type prover interface {
	// prove makes a proof of entry i and returns how many bytes of hashes it
	// has.
	prove(i int) (any, int, error)
	// read returns the entry i.
	read(i int) ([]byte, error)
	// verify checks a proof of entry i, which holds body.
	verify(i int, body []byte, proof any) error
}

// proofSamples is how many entries are asked for, and proofRounds how often.
const (
	proofSamples = 256
	proofRounds  = 10
)

// measureProofs compares proofs of a ledger with verified reads of immudb,
// both with the same entries. The sides take turns.
func measureProofs(ctx context.Context, dir string, opt options) (_ []proof, err error) {
	provers, closeAll, err := openProvers(ctx, dir, opt.proofs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	results := []proof{
		{Name: retraceName, Entries: opt.proofs},
		{Name: retraceName + ", and the checkpoint's signature", Entries: opt.proofs, Signed: true},
		{Name: "immudb embedded" + version(immudbModule) + ", verified read", Entries: opt.proofs},
	}
	made, read, verified := make([][]time.Duration, 3), make([][]time.Duration, 3), make([][]time.Duration, 3)
	rnd := rand.New(rand.NewPCG(1, 2))
	samples := make([]int, proofSamples)
	for i := range samples {
		samples[i] = rnd.IntN(opt.proofs)
	}
	for round := range proofRounds + 1 {
		for side, p := range provers {
			for _, i := range samples {
				t0 := time.Now()
				proof, size, err := p.prove(i)
				t1 := time.Now()
				if err != nil {
					return nil, fmt.Errorf("%s: proving entry %d: %w", results[side].Name, i, err)
				}
				body, err := p.read(i)
				t2 := time.Now()
				if err != nil {
					return nil, fmt.Errorf("%s: reading entry %d: %w", results[side].Name, i, err)
				}
				err = p.verify(i, body, proof)
				t3 := time.Now()
				if err != nil {
					return nil, fmt.Errorf("%s: verifying entry %d: %w", results[side].Name, i, err)
				}
				if round == 0 {
					continue
				}
				made[side], read[side], verified[side] = append(made[side], t1.Sub(t0)), append(read[side], t2.Sub(t0)), append(verified[side], t3.Sub(t2))
				results[side].Bytes = max(results[side].Bytes, size)
			}
		}
	}
	for side := range results {
		results[side].MadeUs, results[side].ReadUs, results[side].VerifyUs = 1000*quantile(made[side], 0.5), 1000*quantile(read[side], 0.5), 1000*quantile(verified[side], 0.5)
	}
	return results, nil
}

// openProvers fills a ledger and an immudb with the same n entries. The provers
// are the ledger's, the ledger's with its signature, immudb's.
func openProvers(ctx context.Context, dir string, n int) (_ []prover, closeAll func() error, err error) {
	envs, err := ledgerbench.Envelopes(n)
	if err != nil {
		return nil, nil, err
	}
	key, err := keys.Generate()
	if err != nil {
		return nil, nil, err
	}
	contest, err := ledgerbench.NewContest(filepath.Join(dir, "retrace"), key)
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := contest.Append(ctx, 1024, slices.Collect(slices.Chunk(envs, 1))); err != nil {
		return nil, nil, errors.Join(err, contest.Close())
	}
	signed, err := verify.OpenCheckpoint(contest.Log.Checkpoint(), contest.Verifier)
	if err != nil {
		return nil, nil, errors.Join(err, contest.Close())
	}
	their, err := loadImmudb(ctx, filepath.Join(dir, "immudb"), envs)
	if err != nil {
		return nil, nil, errors.Join(err, contest.Close())
	}
	return []prover{&ledgerProver{ctx, contest, signed, false}, &ledgerProver{ctx, contest, signed, true}, their},
		func() error { return errors.Join(contest.Close(), their.Close()) }, nil
}

// ledgerProver numbers entries without the genesis, in the order in which the
// ledger has them.
type ledgerProver struct {
	ctx     context.Context
	contest *ledgerbench.Contest
	signed  verify.Checkpoint
	note    bool // verify the checkpoint's signature each time
}

func (p *ledgerProver) prove(i int) (any, int, error) {
	proof, err := p.contest.Log.Proof(p.ctx, int64(i)+1)
	return proof, len(proof.Hashes) * tlog.HashSize, err
}

func (p *ledgerProver) read(i int) ([]byte, error) {
	e, err := p.contest.Log.Entry(p.ctx, int64(i)+1)
	return e.Body, err
}

func (p *ledgerProver) verify(_ int, body []byte, proof any) error {
	of := proof.(verify.Proof)
	commitment := schema.Commitment(body)
	if p.note {
		_, err := of.Verify(commitment, p.contest.Verifier)
		return err
	}
	return tlog.CheckRecord(of.Hashes, p.signed.Size, p.signed.Root, of.Index, tlog.RecordHash(commitment[:]))
}

// immudbProver proves a key to whoever knows the state after the last
// transaction, as immudb's verified read does.
type immudbProver struct {
	*immudb
	keys [][]byte
	txs  []uint64 // of each key
	last *store.TxHeader
	tx   *store.Tx
}

// immudbProof is what the client of a verified read gets.
type immudbProof struct {
	header    *store.TxHeader
	inclusion *htree.InclusionProof
	dual      *store.DualProof
}

func loadImmudb(ctx context.Context, dir string, envs []schema.Envelope) (*immudbProver, error) {
	const callers = 256
	s, err := openImmudb(dir, callers, time.Millisecond)
	if err != nil {
		return nil, err
	}
	p := &immudbProver{immudb: s, keys: make([][]byte, len(envs)), txs: make([]uint64, len(envs)), tx: store.NewTx(16, 64)}
	_, _, err = callFor(len(envs), callers, time.Hour, func(i int) error {
		key := sha256.Sum256(envs[i].Raw)
		p.keys[i] = key[:]
		header, err := s.set(ctx, key[:], envs[i].Raw)
		if err == nil {
			p.txs[i] = header.ID
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if p.last, err = s.ReadTxHeader(slices.Max(p.txs), false, false); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return p, nil
}

func (p *immudbProver) prove(i int) (any, int, error) {
	if err := p.ReadTx(p.txs[i], false, p.tx); err != nil {
		return nil, 0, err
	}
	inclusion, err := p.tx.Proof(p.keys[i])
	if err != nil {
		return nil, 0, err
	}
	header := *p.tx.Header()
	dual, err := p.DualProof(&header, p.last)
	if err != nil {
		return nil, 0, err
	}
	hashes := len(inclusion.Terms) + len(dual.InclusionProof) + len(dual.ConsistencyProof) + len(dual.LastInclusionProof) + 1 // TargetBlTxAlh
	if dual.LinearProof != nil {
		hashes += len(dual.LinearProof.Terms)
	}
	if dual.LinearAdvanceProof != nil {
		hashes += len(dual.LinearAdvanceProof.LinearProofTerms)
		for _, q := range dual.LinearAdvanceProof.InclusionProofs {
			hashes += len(q)
		}
	}
	return immudbProof{&header, inclusion, dual}, hashes * sha256.Size, nil
}

func (p *immudbProver) read(i int) ([]byte, error) {
	entry, err := p.tx.EntryOf(p.keys[i]) // of the transaction that prove read
	if err != nil {
		return nil, err
	}
	return p.ReadValue(entry)
}

func (p *immudbProver) verify(i int, body []byte, proof any) error {
	of := proof.(immudbProof)
	digest, err := store.EntrySpecDigestFor(of.header.Version)
	if err != nil {
		return err
	}
	if !store.VerifyInclusion(of.inclusion, digest(&store.EntrySpec{Key: p.keys[i], Value: body}), of.header.Eh) {
		return errors.New("the key is not in the transaction")
	}
	if !store.VerifyDualProof(of.dual, of.header.ID, p.last.ID, of.header.Alh(), p.last.Alh()) {
		return errors.New("the transaction is not before the last one")
	}
	return nil
}
