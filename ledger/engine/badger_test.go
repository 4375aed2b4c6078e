package engine_test

import (
	"testing"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/engine/enginetest"
)

func TestBadger(t *testing.T) { enginetest.Test(t, engine.OpenBadger) }
