package verify

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Types of keys.
const (
	keyLog      = 0x01
	keyHard     = 0x02
	keyApplied  = 0x03
	keyHead     = 0x04
	keySnap     = 0x05
	keyInbox    = 0x06
	keyOutbox   = 0x07
	keyProducer = 0x08
	keyID       = 0x09
	keyTimer    = 0x0a
	keyState    = 0x0b
	keyLogic    = 0x11
	keyReply    = 0x12
	keyDead     = 0x13
	keyNode     = 0x7f
)

var keyNames = map[byte]string{keyLog: "log", keyHard: "hard", keyApplied: "applied", keyHead: "head", keySnap: "snap", keyInbox: "inbox",
	keyOutbox: "outbox", keyProducer: "producer", keyID: "id", keyNode: "node", keyState: "state", keyLogic: "logic", keyReply: "reply", keyDead: "dead",
	keyTimer: "timer", 0x0c: "group", 0x0d: "tier", 0x0e: "key",
	0x0f: "lineage", 0x10: "quarantine"}

// prefix begins all keys of a type of a shard.
func prefix(shard uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, shard), kind)
}

func logKey(shard, index uint64) []byte {
	return binary.BigEndian.AppendUint64(prefix(shard, keyLog), index)
}

// describeKey is a key of the store in words.
func describeKey(k []byte) string {
	if len(k) < 9 {
		return fmt.Sprintf("key %x", k)
	}
	return fmt.Sprintf("shard %d %s", binary.BigEndian.Uint64(k), describeInShard(k))
}

// describeInShard is a key of the store in words, without its shard.
func describeInShard(k []byte) string {
	kind, rest := k[8], k[9:]
	name, ok := keyNames[kind]
	switch {
	case !ok:
		return fmt.Sprintf("key of type 0x%02x", kind)
	case (kind == keyLog || kind == keyInbox) && len(rest) == 8:
		return fmt.Sprintf("%s %d", name, binary.BigEndian.Uint64(rest))
	case kind == keyID && len(rest) == 16:
		return fmt.Sprintf("%s %d/%016x", name, binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:]))
	case kind == keyReply && len(rest) > 17:
		return fmt.Sprintf("%s %d/%s seq %d", name, binary.BigEndian.Uint64(rest), describeGrain(rest[8:len(rest)-9]), binary.BigEndian.Uint64(rest[len(rest)-8:]))
	case kind == keySnap && len(rest) > 9:
		return fmt.Sprintf("%s %s seq %d", name, describeGrain(rest[:len(rest)-9]), binary.BigEndian.Uint64(rest[len(rest)-8:]))
	case kind == keyDead && len(rest) > 9:
		return name + " " + describeDead(rest)
	case kind == keyHead || kind == keyState:
		return name + " " + describeGrain(rest)
	case len(rest) > 0:
		return name + " " + printable(rest)
	}
	return name
}

// describeGrain is the form that a grain has in findings, made from the one it has in keys.
func describeGrain(grain []byte) string {
	parts := strings.SplitN(string(grain), "\x00", 3)
	if len(parts) != 3 {
		return printable(grain)
	}
	return grainName(parts[0], parts[1], []byte(parts[2]))
}

// store is the folder's Pebble, open for reading.
type store struct {
	db    *pebble.DB
	cache *pebble.Cache
}

// quiet is Pebble's logger: what it has to say it says again in an error.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fatal(fmt.Sprintf(format, args...)))
}

// fatal is what Pebble would have ended the process for.
type fatal string

// notFatal makes an error out of a recovered [fatal]; any other panic goes on.
func notFatal(p any) error {
	if f, ok := p.(fatal); ok {
		return errors.New(string(f))
	} else if p != nil {
		panic(p)
	}
	return nil
}

// options by which tables and store are read.
func options(fs vfs.FS) *pebble.Options {
	p := &pebble.Options{
		FS: fs, ReadOnly: true, ErrorIfNotExists: true, Logger: quiet{}, FormatMajorVersion: pebble.FormatNewest,
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	}
	p.DisableAutomaticCompactions = true
	return p
}

func open(dir string, fs vfs.FS, lock *pebble.Lock) (s *store, err error) {
	s = &store{cache: pebble.NewCache(32 << 20)}
	p := options(fs)
	p.Lock, p.Cache = lock, s.cache
	defer func() {
		err = errors.Join(err, notFatal(recover()))
		if err != nil {
			s.cache.Unref()
		}
	}()
	s.db, err = pebble.Open(dir, p)
	return s, err
}

func (s *store) close() {
	_ = s.db.Close()
	s.cache.Unref()
}

// scan calls fn for each key from lower to before upper, in order, until it returns false. Both slices are valid during
// the call. last is the last key that could be read, for saying where an error is.
func (s *store) scan(ctx context.Context, lower, upper []byte, fn func(k, v []byte) bool) (last []byte, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		if n++; n%256 == 0 && ctx.Err() != nil {
			return last, ctx.Err()
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return last, err
		}
		if last = append(last[:0], it.Key()...); !fn(last, v) {
			return last, nil
		}
	}
	return last, it.Error()
}

// has tells whether a key can be read; an error is not reported here.
func (s *store) has(k []byte) bool {
	_, closer, err := s.db.Get(k)
	if err != nil {
		return false
	}
	_ = closer.Close()
	return true
}

// identity reads the key of the node and returns the number of shards, or 0 when it is not known.
func (v *verifier) identity() (uint64, error) {
	var id struct {
		Format int    `json:"format"`
		GoArch string `json:"goarch"`
		Shards uint64 `json:"shards"`
		NodeID uint64 `json:"node_id"`
	}
	found, wrong := false, func(format string, args ...any) {
		v.find(Finding{Ordinal: None, Key: "shard 0 node", What: fmt.Sprintf(format, args...)})
	}
	known := true
	_, err := v.store.scan(v.ctx, nil, prefix(1, 0), func(k, val []byte) bool {
		if len(k) != 9 || k[8] != keyNode {
			v.find(Finding{Ordinal: None, Key: describeKey(k), What: "the node's own keys have no such key"})
			return true
		}
		found = true
		if err := json.Unmarshal(val, &id); err != nil {
			wrong("not readable: %v", err)
			known = false
		}
		return true
	})
	if v.ctx.Err() != nil {
		return 0, v.ctx.Err()
	}
	switch {
	case err != nil:
		wrong("cannot be read: %v", err)
	case !found:
		wrong("is missing: this store was not made by Granary, or not to the end")
	case !known:
	case id.Format != 1:
		wrong("format %d: written by a later version", id.Format)
	case id.Shards == 0 || id.Shards&(id.Shards-1) != 0:
		wrong("%d shards: must be a power of two", id.Shards)
	default:
		if id.NodeID == 0 {
			wrong("node id is 0")
		}
		if id.GoArch != runtime.GOARCH {
			wrong("written on %s; turns that are run again on %s may round floats differently", id.GoArch, runtime.GOARCH)
		}
		v.report.NodeID, v.report.Shards = id.NodeID, id.Shards
		return id.Shards, nil
	}
	return 0, nil
}

// strayShards finds keys behind the last shard.
func (v *verifier) strayShards(n uint64) {
	last, err := v.store.scan(v.ctx, prefix(n+1, 0), nil, func(k, _ []byte) bool {
		v.find(Finding{Ordinal: None, Key: describeKey(k), What: fmt.Sprintf("a key of a shard that is not there: the store has %d", n)})
		return v.report.Total < uint64(v.o.MaxFindings)
	})
	if err != nil && v.ctx.Err() == nil {
		v.find(Finding{Ordinal: None, Key: "behind " + describeKey(last), What: fmt.Sprintf("cannot be read: %v", err)})
	}
}
