package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// firmwareToken is where a virtual machine's kernel shows the token that its host hands over, to root alone.
const firmwareToken = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.hexworker.metaservice.token/raw"

// maxTokenFile is more than a token and a newline can have.
const maxTokenFile = 4 << 10

// findToken reads the token with which these tools prove themselves: from the file that is given, else from
// the firmware, which need have none. One that is there for somebody else is none either.
func findToken(given, firmware string, logger *slog.Logger) (domain.Token, error) {
	if given != "" {
		token, err := readToken(given, logger)
		if err != nil {
			return domain.Token{}, fmt.Errorf("--token-file: %w", err)
		}
		return token, nil
	}
	token, err := readToken(firmware, logger)
	switch {
	case errors.Is(err, fs.ErrPermission):
		logger.Warn("the machine's token is for root alone: these tools do without", "error", err)
		return domain.Token{}, nil
	case errors.Is(err, fs.ErrNotExist):
		return domain.Token{}, nil
	case err != nil:
		return domain.Token{}, fmt.Errorf("the token that the machine was given can't be used: %w", err)
	}
	return token, nil
}

// readToken reads a token off a file, with a newline after it or without. No error shows any of it.
func readToken(path string, logger *slog.Logger) (domain.Token, error) {
	info, err := os.Stat(path)
	if err != nil {
		return domain.Token{}, err
	}
	if !info.Mode().IsRegular() { // a FIFO would be waited for
		return domain.Token{}, fmt.Errorf("%q is no file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return domain.Token{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
	if err != nil {
		return domain.Token{}, err
	}
	token, err := domain.ParseToken(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"))
	if err != nil {
		return domain.Token{}, fmt.Errorf("%q holds no token: %w", path, err)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 && runtime.GOOS != "windows" {
		logger.Warn("others than its owner may use the token's file: whoever reads it can act in the place of these tools",
			"file", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	return token, nil
}
