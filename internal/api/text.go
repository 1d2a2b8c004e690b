package api

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// checkText refuses a message that the API cannot carry, and names the text: protobuf has UTF-8 alone.
func checkText(m proto.Message) error {
	bad, found := badText(m.ProtoReflect())
	if !found {
		return nil
	}
	return reason.Wrap(reason.Usage, fmt.Sprintf("%.300q", bad), errors.New("it is not valid UTF-8")).
		WithHint("write it in UTF-8; a host, a file or a domain of such a name cannot be asked about")
}

// badText finds a text that is not UTF-8 in a message.
func badText(m protoreflect.Message) (bad string, found bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		look := func(v protoreflect.Value) bool {
			switch {
			case found:
			case f.Kind() == protoreflect.StringKind:
				bad, found = v.String(), !utf8.ValidString(v.String())
			case f.Kind() == protoreflect.MessageKind && !f.IsMap():
				bad, found = badText(v.Message())
			}
			return !found
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				for _, text := range []string{k.String(), v.String()} {
					if !found && !utf8.ValidString(text) {
						bad, found = text, true
					}
				}
				return !found
			})
		case f.IsList():
			for i := range v.List().Len() {
				look(v.List().Get(i))
			}
		default:
			look(v)
		}
		return !found
	})
	return bad, found
}

// CleanText makes a message one that the API can carry: a text of it may have the name of a file in it, which has any
// bytes. Those that are not UTF-8 become U+FFFD.
func CleanText(m proto.Message) {
	if _, found := badText(m.ProtoReflect()); found {
		cleanText(m.ProtoReflect())
	}
}

func cleanText(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Kind() == protoreflect.StringKind:
			clean := map[string]string{}
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				clean[utf8Of(k.String())] = utf8Of(v.String())
				return true
			})
			m.Clear(f)
			for k, v := range clean {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(k).MapKey(), protoreflect.ValueOfString(v))
			}
		case f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				switch f.Kind() {
				case protoreflect.StringKind:
					v.List().Set(i, protoreflect.ValueOfString(utf8Of(v.List().Get(i).String())))
				case protoreflect.MessageKind:
					cleanText(v.List().Get(i).Message())
				}
			}
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(utf8Of(v.String())))
		case f.Kind() == protoreflect.MessageKind:
			cleanText(v.Message())
		}
		return true
	})
}

// textCheck applies checkText to what a client sends.
type textCheck struct{}

// WrapUnary implements connect.Interceptor.
func (textCheck) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if m, ok := req.Any().(proto.Message); ok {
			if err := checkText(m); err != nil {
				return nil, err
			}
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (textCheck) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return textConn{next(ctx, spec)}
	}
}

// WrapStreamingHandler implements connect.Interceptor; there is no handler here.
func (textCheck) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

type textConn struct{ connect.StreamingClientConn }

// Send implements connect.StreamingClientConn.
func (c textConn) Send(m any) error {
	if m, ok := m.(proto.Message); ok {
		if err := checkText(m); err != nil {
			return err
		}
	}
	return c.StreamingClientConn.Send(m)
}
