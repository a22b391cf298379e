//go:build !unix

package contract

import "errors"

func makeFIFO(string) error { return errors.ErrUnsupported }
