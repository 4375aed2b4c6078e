// Package enginetest is what an engine has to pass to hold a ledger.
package enginetest
