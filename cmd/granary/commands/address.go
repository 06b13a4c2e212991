package commands

import (
	"fmt"
	"net"
	"strconv"
)

// hostPort is the value of a flag that names a place to call.
type hostPort string

// String is part of pflag.Value.
func (h *hostPort) String() string { return string(*h) }

// Type is part of pflag.Value.
func (h *hostPort) Type() string { return "HOST:PORT" }

// Set is part of pflag.Value.
func (h *hostPort) Set(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("want HOST:PORT, for example %s", defaultTarget)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("want a host and a port from 1 to 65535, for example %s", defaultTarget)
	}
	*h = hostPort(text)
	return nil
}

// listenAddress is the value of --listen.
type listenAddress string

// String is part of pflag.Value.
func (l *listenAddress) String() string { return string(*l) }

// Type is part of pflag.Value.
func (l *listenAddress) Type() string { return "HOST:PORT" }

// Set is part of pflag.Value.
func (l *listenAddress) Set(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("want HOST:PORT, for example %s", defaultTarget)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("want a port from 0 to 65535, for example %s", defaultTarget)
	}
	*l = listenAddress(text)
	return nil
}
