package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// convert is v as the key's type. A list in the environment is written with
// commas.
func (k Key) convert(v any, fromEnv bool) (any, error) {
	switch k.kind.Kind() {
	case reflect.Slice:
		return toList(v, fromEnv)
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%v is not a text: put it in quotes", v)
		}
		return s, nil
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		if s, ok := v.(string); ok {
			if b, err := strconv.ParseBool(s); err == nil {
				return b, nil
			}
		}
		return nil, fmt.Errorf("%v is not true or false", v)
	}
	return k.toNumber(v)
}

func toList(v any, fromEnv bool) (any, error) {
	switch v := v.(type) {
	case []string:
		return v, nil
	case []any:
		out := []string{}
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a text: put it in quotes", item)
			}
			out = append(out, s)
		}
		return out, nil
	case string:
		if fromEnv {
			out := []string{}
			for s := range strings.SplitSeq(v, ",") {
				if s = strings.TrimSpace(s); s != "" {
					out = append(out, s)
				}
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("%v is not a list: write it as [a, b]", v)
}

// toNumber refuses what the key's type cannot hold.
func (k Key) toNumber(v any) (any, error) {
	text := fmt.Sprint(v)
	out := reflect.New(k.kind).Elem()
	if out.CanUint() {
		n, err := strconv.ParseUint(text, 10, k.kind.Bits())
		if err != nil {
			return nil, fmt.Errorf("%s is not a whole number from 0", text)
		}
		out.SetUint(n)
		return out.Interface(), nil
	}
	n, err := strconv.ParseInt(text, 10, k.kind.Bits())
	if err != nil {
		return nil, fmt.Errorf("%s is not a whole number", text)
	}
	out.SetInt(n)
	return out.Interface(), nil
}
