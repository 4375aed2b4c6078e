// Package audit compares images that are deployed with what a ledger recorded,
// and gives each one verdict with its reasons.
//
// Four checks are made of an image:
//
//	resolved   the reference is one digest
//	recorded   the ledger holds entries about that digest that somebody vouches for
//	origin     what it was built from, as recorded
//	signed     the given cosign key signed it, and the signature claims this digest
//
// A check passes, fails, or could not be made. A verdict is PASS when all that
// the policy asks for pass, FAIL when one fails, and UNKNOWN when none fails
// and one could not be made: what is not known never passes. A check that the
// policy does not ask for is said as a NOTE and decides nothing.
//
// The package reads no ledger and no registry itself. It asks the interfaces
// that it declares.
package audit
