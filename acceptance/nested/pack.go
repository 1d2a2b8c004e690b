package nested

// Pack writes an initramfs of a guest that boots without a machine around it: with the kernel, by QEMU's or libvirt's
// direct boot. Its script runs as in a Guest.
func (k *Kernel) Pack(initrd string, g Guest) error {
	own := []file{{at: "/script", text: g.Script}}
	for at, from := range g.Files {
		own = append(own, file{at: at, from: from})
	}
	return (&Machine{Kernel: k}).pack(initrd, own, g.Modules)
}
