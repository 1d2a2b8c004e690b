// Package virt knows what libvirt says of the domains of this host, and changes what virtswarm may change of them: its
// own metadata, and a device plugged in or out.
//
// What it promises:
//
//   - The picture follows libvirt. Events only say which domain to look at again; what is shown was read from that
//     domain afterwards. So an event that comes twice, late, or not at all does no harm: everything is read again
//     after each connect and every Config.Reconcile.
//   - It outlives libvirt. While libvirtd is down, or hangs, the last picture stays, Connected says false, and the
//     watcher connects anew. Without libvirt on the host it says so once and costs nothing.
//   - No caller hangs with libvirt. Its calls know no context: they run on at most four goroutines of the watcher's own,
//     and who waits for one is let go after a while with an error, though the call goes on. A QEMU that hangs holds up
//     only what is asked of it; two that are being changed hold up changes of others.
//   - Whatever a definition or an image says, the domain is shown. What is not valid in it is left out, said once in the
//     log, and counted.
//
// libvirt sends no event for an external snapshot, a vCPU plugged in, or a new maximum of memory; those are seen when it
// writes the state of the domain to its own directory, or at the next reconcile.
//
// What it cannot know at once: that a domain migrates away is seen when the first pass over its memory
// begins (libvirt's migration-iteration event, which every QEMU since 2.5 sends) or at a reconcile, and then once a
// second until it is over. What happens before that, the preparation of the other host and a copy of its disks, has no
// event.
//
// libvirt is loaded when it is needed, in programs built with the tag libvirt_dlopen. Without the tag everything
// compiles and parses, and connecting fails with ErrNoLibvirt.
package virt
