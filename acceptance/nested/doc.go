// Package nested boots a machine in which the kernel's side of virtio-vsock (vhost-vsock) works, on any machine that
// has QEMU: a guest, called L1 here, that plays the host, and in it guests of its own, called L2. Nothing is
// accelerated and nothing of the machine outside is used or changed: L1 has no disk, no network card and no vsock
// device, so that AF_VSOCK in it leads to its own guests only. Speeds in there mean nothing; that things work, resume
// and refuse does.
//
//	m := nested.Machine{Dir: dir, Kernel: kernel}
//	m.Add("/bin/echo-server", "/tmp/echo-server")              // a program, with the libraries that it needs
//	m.AddGuest(nested.Guest{CID: 42, Script: "echo-client"})   // boots when L1's script says: guest 42
//	run, err := m.Start("echo-server & guest 42")
//	code, err := run.Wait(ctx)                                 // the script's exit code; run.Console() is all output
package nested
