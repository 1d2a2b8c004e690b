// Package store keeps verified chunks on this host's disk.
package store
