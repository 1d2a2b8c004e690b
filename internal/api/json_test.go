package api

import (
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func TestJSON(t *testing.T) {
	for _, tt := range []struct {
		message proto.Message
		want    string
	}{
		{&v1.HealthResponse{}, `{"staleness":null,"findings":[],"silent":[]}`},
		{&v1.StrayName{Name: "a<b>\"\\\n", At: 1777863721}, `{"name":"a<b>\"\\\n","replicas":0,"guests":"","publisher":"","at":"2026-05-04T03:02:01Z","index":0}`},
		{
			&v1.GuestEvent{Index: 1<<64 - 1, Guest: &v1.Guest{State: v1.GuestState_GUEST_STATE_OFF, Tags: []string{"b", "a"}}, Reset_: true},
			`{"index":18446744073709551615,"guest":{"uuid":"","name":"","state":"off","host_id":"","host":"","manager":"","vcpus":0,"memory":0,` +
				`"cid":0,"migration":"","disks":[],"needs":[],"tags":["b","a"],"others":[],"split":false,"index":0,"shm":0,"want_shm":0,` +
				`"push":null,"awaits":""},"gone":false,"initial":false,"reset":true}`,
		},
		{&v1.ErrorDetail{Reason: v1.Reason_REASON_NOT_FOUND}, `{"reason":"not-found","exit_code":0,"message":"","subject":"","cause":"","hint":""}`},
		{&v1.ErrorDetail{Reason: 99}, `{"reason":"","exit_code":0,"message":"","subject":"","cause":"","hint":""}`},
		{&v1.SaveCatalogueChunk{Data: []byte{0xff}}, `{"staleness":null,"data":"/w=="}`},
		{&v1.SetHostRequest{Labels: map[string]string{"z": "1", "a": "2"}, Weight: proto.Uint32(7)},
			`{"host":"","labels":{"a":"2","z":"1"},"weight":7,"up":0,"down":0,"quota":0,"high":0,"low":0}`},
		{&v1.PeerRate{Up: 1.5e21, Down: 0.25}, `{"host_id":"","host":"","up":1.5e+21,"down":0.25,"owes_bytes":0,"waits_chunks":0}`},
	} {
		if got := string(JSON(tt.message)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
