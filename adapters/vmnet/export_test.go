package vmnet

// Limits, for the tests of them.
const (
	MaxClosing    = maxClosing
	ReceiveBuffer = receiveBuffer
)

// What is tested by itself.
var (
	AnswerDHCP = answerDHCP
	Admitted   = admitted
	Forbidden  = forbidden
)
