package contract

import "flag"

// Long makes the suites repeat as often as their claims say, which takes minutes.
var Long = flag.Bool("long", false, "run the long forms of the contract suites")
