package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/witness"
	"github.com/retrace-ledger/retrace/verify"
)

// feeder has l cosigned by the witnesses of a policy file; nil if there is
// none.
func feeder(dir string, l *ledger.Ledger, file string, logger *slog.Logger) (*witness.Feeder, error) {
	if file == "" {
		return nil, nil
	}
	policy, err := readPolicy(file)
	if err != nil {
		return nil, err
	}
	vkey, err := os.ReadFile(filepath.Join(dir, logVKeyFile))
	if err != nil {
		return nil, err
	}
	key, err := verify.ParseLogKey(vkey, l.Origin())
	if err != nil {
		return nil, err
	}
	f, err := witness.New(l, key, policy, &witness.Options{
		Alarm: func(name string, err error) {
			logger.Error("a witness claims that this log forked or was rolled back; nobody signed the claim, so writing goes on", "witness", name, "err", err)
		},
		Failed: func(name string, err error, again time.Duration) {
			logger.Warn("not cosigned", "witness", name, "err", err, "again", again.Round(time.Millisecond))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

// readPolicy reads a C2SP tlog-policy file.
func readPolicy(file string) (*verify.Policy, error) {
	raw, err := readFileOrStdin(file, verify.MaxPolicy)
	if err != nil {
		return nil, err
	}
	p, err := verify.ParsePolicy(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}
