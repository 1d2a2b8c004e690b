package hostd

import (
	"cmp"
	"context"
	"net"
	"os"
	"slices"
	"strings"
)

// inward are the beginnings of the names of interfaces that lead to guests and containers of this machine, and to no
// other host. Their addresses are often the same on every host, as that of libvirt's virbr0 is.
var inward = []string{"virbr", "docker", "podman", "cni", "lxcbr", "lxdbr", "veth", "vnet", "tap", "flannel", "cali"}

// likeliestAddress picks the address at which other hosts reach this machine: of the interface that has the default
// route, else of the first that does not lead inward. nil if there is none.
func likeliestAddress() (net.IP, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	outward := defaultInterface()
	rank := func(i net.Interface) int {
		switch {
		case i.Name == outward:
			return 0
		case slices.ContainsFunc(inward, func(prefix string) bool { return strings.HasPrefix(i.Name, prefix) }):
			return 2
		}
		return 1
	}
	slices.SortStableFunc(interfaces, func(a, b net.Interface) int { return cmp.Compare(rank(a), rank(b)) })
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				return n.IP, nil
			}
		}
	}
	return nil, nil
}

// defaultInterface names the interface that has the default route; "" if there is none.
func defaultInterface() string {
	text, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// addressTowards returns this host's port at the address that this machine has on its way to another; what was picked
// if that cannot be told.
func (h *Host) addressTowards(ctx context.Context, other string) string {
	conn, err := h.network.Dial(ctx, "tcp://"+other)
	if err != nil {
		return h.advertise
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	_, port, err := net.SplitHostPort(h.advertise)
	if !ok || err != nil || !local.IP.IsGlobalUnicast() {
		return h.advertise
	}
	return net.JoinHostPort(local.IP.String(), port)
}

// isOwn says whether an address is one of this machine's.
func isOwn(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	addrs, listErr := net.InterfaceAddrs()
	if err != nil || ip == nil || listErr != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool { n, ok := a.(*net.IPNet); return ok && n.IP.Equal(ip) })
}
