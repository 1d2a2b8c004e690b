package placement

import "testing"

func TestMayRead(t *testing.T) {
	const uuid = "0b7f6a52-4c43-4d0e-8c4f-1f0f7a3f2f11"
	web := Domain{UUID: uuid, Name: "web-1", Tags: []string{"prod", "web"}}
	posing := Domain{UUID: "11111111-4c43-4d0e-8c4f-1f0f7a3f2f11", Name: uuid}
	for pattern, want := range map[string][2]bool{
		"none":                     {false, false},
		"all":                      {true, true},
		"tag:web":                  {true, false},
		"tag:we":                   {false, false},
		"tag:*":                    {false, false},
		"tag:":                     {false, false},
		"web-*":                    {true, false},
		"web-1":                    {true, false},
		"WEB-1":                    {false, false},
		"*":                        {true, true},
		uuid:                       {true, false}, // the domain, not who is called so
		"[":                        {false, false},
		"":                         {false, false},
		"0b7f6a52-4c43-4d0e-8c4f*": {false, true}, // a glob is over names
	} {
		if got := [2]bool{web.MayRead(pattern), posing.MayRead(pattern)}; got != want {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
}

func TestPushPolicy(t *testing.T) {
	d := Domain{UUID: "u"}
	if d.PushPrefix() != "" || d.PushGuests() != "none" {
		t.Error("a domain without a word about it may publish", d.PushPrefix(), d.PushGuests())
	}
	d.Push = &Push{Quota: 1}
	if d.PushPrefix() != "guests/u/" || d.PushGuests() != "none" {
		t.Error(d.PushPrefix(), d.PushGuests())
	}
	d.Push = &Push{Quota: 1, Prefix: "builds/web", Guests: "tag:web"}
	if d.PushPrefix() != "builds/web/" || d.PushGuests() != "tag:web" {
		t.Error(d.PushPrefix(), d.PushGuests())
	}
	for _, bad := range []Push{{}, {Quota: -1}, {Quota: MaxQuota + 1}, {Quota: 1, Prefix: "/x"}, {Quota: 1, Prefix: "x/"}, {Quota: 1, Prefix: "../x"}, {Quota: 1, Guests: "tag:"}} {
		if bad.validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}
