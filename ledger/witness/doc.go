// Package witness has a ledger's newest checkpoint cosigned by independent
// witnesses (C2SP tlog-witness), and notices when one of them knows more than
// the ledger does.
package witness
