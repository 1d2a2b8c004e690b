#!/bin/sh
# Generates internal/api/virtswarm/v1 from internal/api/proto. Needs protoc (Debian: protobuf-compiler);
# the plugins are tools of go.mod, so every machine generates the same code.
set -eu
cd "$(dirname "$0")"

module=github.com/virtswarm/virtswarm
protoc \
	--plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" \
	--plugin=protoc-gen-connect-go="$(go tool -n protoc-gen-connect-go)" \
	--proto_path=proto \
	--go_out=../.. --go_opt=module=$module \
	--connect-go_out=../.. --connect-go_opt=module=$module --connect-go_opt=simple \
	proto/virtswarm/v1/*.proto
