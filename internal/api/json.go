package api

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// JSON returns a message as the command line tools print it: one line, every field under its own name and in its order.
//
// It is not the JSON of protobuf, which is for programs that have the .proto files. Here all numbers are numbers, an
// int64 is a time in RFC 3339 and UTC (null if it is 0), a value of an enum is a word in lower case, with dashes and
// without the enum's name (empty if it is 0), a list or map is never null, and a message that is not set is null.
func JSON(m proto.Message) []byte { return appendMessage(nil, m.ProtoReflect()) }

func appendMessage(b []byte, m protoreflect.Message) []byte {
	if !m.IsValid() {
		return append(b, "null"...)
	}
	b = append(b, '{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		f := fields.Get(i)
		b = append(appendText(b, string(f.Name())), ':')
		b = appendField(b, f, m.Get(f))
	}
	return append(b, '}')
}

func appendField(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch {
	case f.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, f, v.List().Get(i))
		}
		return append(b, ']')
	case f.IsMap():
		return appendMap(b, f.MapValue(), v.Map())
	}
	return appendValue(b, f, v)
}

// appendMap writes the keys in their order.
func appendMap(b []byte, f protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
	var keys []string
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k.String())
		return true
	})
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, k), ':')
		b = appendValue(b, f, m.Get(protoreflect.ValueOfString(k).MapKey()))
	}
	return append(b, '}')
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(b, v.Uint(), 10)
	case protoreflect.Int64Kind:
		if v.Int() == 0 {
			return append(b, "null"...)
		}
		return appendText(b, time.Unix(v.Int(), 0).UTC().Format(time.RFC3339))
	case protoreflect.DoubleKind:
		return appendNumber(b, v.Float())
	case protoreflect.EnumKind:
		return appendText(b, Word(f.Enum(), v.Enum()))
	case protoreflect.MessageKind:
		return appendMessage(b, v.Message())
	case protoreflect.BytesKind:
		return appendText(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	}
	return appendText(b, v.String())
}

// Word returns a value of an enum in lower case, with dashes and without the enum's name: HOST_STATE_ALIVE is "alive".
// 0, which no enum of this API has a meaning for, and what this program does not know are empty.
func Word(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := e.Values().ByNumber(n)
	if v == nil || n == 0 {
		return ""
	}
	prefix := string(e.Values().ByNumber(0).Name())
	prefix = strings.TrimSuffix(prefix, "UNSPECIFIED")
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix)), "_", "-")
}

// appendNumber writes a number as encoding/json does; what JSON has no number for is null.
func appendNumber(b []byte, n float64) []byte {
	text, err := json.Marshal(n)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, text...)
}

// appendText writes a string, in which only what JSON demands is escaped.
func appendText(b []byte, s string) []byte {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return append(b, strings.TrimSuffix(out.String(), "\n")...)
}
