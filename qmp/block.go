package qmp

import (
	"encoding/json"
	"fmt"
	"strings"
)

// block is an element of query-block's reply, BlockInfo in QEMU's qapi/block-core.json.
type block struct {
	Device   string `json:"device"` // of the backend; "" if it was made for its device
	Qdev     string `json:"qdev"`   // the device's id or its path in the object tree
	Inserted *struct {
		File  string `json:"file"`
		Image image  `json:"image"`
	} `json:"inserted"`
}

// image is ImageInfo there.
type image struct {
	Filename    string `json:"filename"`
	FullBacking string `json:"full-backing-filename"`
	Backing     *image `json:"backing-image"`
}

// decodeDisks makes of query-block's reply what a guest's picture shows.
func decodeDisks(raw []byte) ([]Disk, error) {
	var disks []Disk
	err := each(raw, maxDisks, func(b *block) error {
		if b.Inserted == nil {
			return nil
		}
		d := Disk{Target: b.target()}
		if d.Chain = b.Inserted.Image.chain(); len(d.Chain) == 0 && b.Inserted.File != "" {
			d.Chain = []string{imagePath(b.Inserted.File)}
		}
		if len(d.Chain) > maxChain {
			return fmt.Errorf("look at disk %.50q: %w: more than %d images", d.Target, ErrTooLarge, maxChain)
		}
		for _, s := range append(d.Chain, d.Target) {
			if len(s) > maxText {
				return fmt.Errorf("look at disk %.50q: %w: %d bytes of a name", d.Target, ErrTooLarge, len(s))
			}
		}
		disks = append(disks, d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return disks, nil
}

// target prefers the name that somebody gave.
func (b *block) target() string {
	if id, ok := strings.CutPrefix(b.Qdev, peripheral+"/"); ok {
		id, _, _ = strings.Cut(id, "/") // virtio-blk has its block device one level deeper
		return id
	}
	if b.Device != "" {
		return b.Device
	}
	return b.Qdev
}

// chain lists an image and its backing files, one more than allowed at the most.
func (i *image) chain() []string {
	var chain []string
	for ; i != nil && len(chain) <= maxChain; i = i.Backing {
		if i.Filename != "" {
			chain = append(chain, imagePath(i.Filename))
		}
		if i.Backing == nil && i.FullBacking != "" { // one that QEMU has not opened
			chain = append(chain, imagePath(i.FullBacking))
		}
	}
	return chain
}

// imagePath finds the path in a name that QEMU made of options that no plain name can express: json:{…}, in which what
// is below a node has the key file. Another name it returns as it is.
func imagePath(name string) string {
	options, ok := strings.CutPrefix(name, "json:")
	if !ok {
		return name
	}
	for range maxChain {
		var node map[string]json.RawMessage
		if json.Unmarshal([]byte(options), &node) != nil {
			return name
		}
		for _, key := range []string{"filename", "file.filename"} {
			var path string
			if json.Unmarshal(node[key], &path) == nil && path != "" {
				return path
			}
		}
		options = string(node["file"])
	}
	return name
}
