package hostd

import "testing"

func TestUnmounted(t *testing.T) {
	const root = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	const data = root + "40 22 8:17 / /srv/data rw,relatime shared:9 - xfs /dev/sdb1 rw\n"
	for name, tt := range map[string]struct {
		fstab, mounts, wanted, dir, want string
	}{
		"nothing is said":                {"", root, "", "/srv/data/v", ""},
		"the root is always there":       {"/dev/sda1 / ext4 defaults 0 1\n", "", "", "/srv/data", ""},
		"mounted":                        {"/dev/sdb1 /srv/data xfs defaults 0 2\n", data, "", "/srv/data/v", ""},
		"not mounted, above":             {"/dev/sdb1 /srv/data xfs defaults 0 2\n", root, "", "/srv/data/v", "/srv/data"},
		"not mounted, itself":            {"/dev/sdb1 /srv/data xfs\n", root, "", "/srv/data", "/srv/data"},
		"slash at the end":               {"/dev/sdb1 /srv/data/ xfs defaults 0 2\n", root, "", "/srv/data", "/srv/data"},
		"another directory":              {"/dev/sdb1 /srv/data xfs defaults 0 2\n", root, "", "/srv/database", ""},
		"below the data":                 {"/dev/sdb1 /srv/data xfs defaults 0 2\n", root, "", "/srv", ""},
		"comment":                        {"# /dev/sdb1 /srv/data xfs\n#/dev/sdb1 /srv/data xfs\n", root, "", "/srv/data", ""},
		"no options, no end of line":     {"/dev/sdb1\t/srv/data\txfs", root, "", "/srv/data", "/srv/data"},
		"swap":                           {"/dev/sdc none swap sw 0 0\n/dev/sdd swap swap sw 0 0\n/swap /srv/data swap sw\n", root, "", "/srv/data", ""},
		"none":                           {"tmpfs none tmpfs defaults 0 0\n", root, "", "/srv/data", ""},
		"bind mount, missing":            {"/big/data /srv/data none bind 0 0\n", root, "", "/srv/data", "/srv/data"},
		"bind mount, there":              {"/big/data /srv/data none bind 0 0\n", data, "", "/srv/data", ""},
		"noauto is still where it is":    {"/dev/mapper/c /srv/data ext4 noauto 0 0\n", root, "", "/srv/data", "/srv/data"},
		"octal escapes, missing":         {`/dev/sdb1 /srv/my\040data xfs` + "\n", root, "", "/srv/my data/v", "/srv/my data"},
		"octal escapes, there":           {`/dev/sdb1 /srv/my\040data xfs` + "\n", `40 22 8:17 / /srv/my\040data rw - xfs d rw` + "\n", "", "/srv/my data/v", ""},
		"a backslash":                    {`/dev/sdb1 /srv/a\134b xfs` + "\n", root, "", `/srv/a\b`, `/srv/a\b`},
		"no escape":                      {`/dev/sdb1 /srv/a\09 xfs` + "\n", root, "", `/srv/a\09`, `/srv/a\09`},
		"nested, the outer is missing":   {"a /srv xfs\nb /srv/data xfs\n", data, "", "/srv/data", "/srv"},
		"wanted, missing":                {"", root, "/srv/data", "/srv/data/v", "/srv/data"},
		"wanted, there":                  {"", data, "/srv/data", "/srv/data/v", ""},
		"wanted, elsewhere, and missing": {"", data, "/mnt/nowhere", "/srv/data/v", "/mnt/nowhere"},
		"garbage":                        {"\x00\\ \\\\\n   \nx\n", "1 2\n\n\\", "", "/srv/data", ""},
	} {
		if got := unmounted(tt.fstab, tt.mounts, tt.wanted, tt.dir); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	fstab := "/dev/sdb1 /big xfs defaults 0 2\n"
	if got := unmounted(fstab, root, "", "/srv/link", "/big/data"); got != "/big" {
		t.Errorf("behind a symbolic link: %q, want /big", got)
	}
}

func FuzzUnmounted(f *testing.F) {
	f.Add(`/dev/sdb1 /srv/my\040data xfs`, `40 22 8:17 / /srv/my\040data rw - xfs d rw`, "/srv")
	f.Fuzz(func(t *testing.T, fstab, mounts, wanted string) { unmounted(fstab, mounts, wanted, "/srv/data") })
}
