package vmnet

// MaxClosing is for the test of it.
const MaxClosing = maxClosing

// AnswerDHCP is for fuzzing, Admitted too.
var (
	AnswerDHCP = answerDHCP
	Admitted   = admitted
	Forbidden  = forbidden
)
