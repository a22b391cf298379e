package wire

// What the tests of the two tables walk.
var Statuses = statuses

// Refused are the errors in the table of refusals.
func Refused() []error {
	var errs []error
	for _, r := range refusals {
		errs = append(errs, r.err)
	}
	return errs
}

const MaxToken = maxToken
