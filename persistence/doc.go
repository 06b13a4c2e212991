// Package persistence keeps the journal and all that is derived from it in one Pebble store per node.
//
// Here live the keys, the Raft log of each shard ([Log]), what is derived from its committed entries ([Index]), and the
// store itself ([Store]). Here never live turns, routing or consensus: this package does not know what an event means.
// The bytes of entries and records are in the package entry.
//
// Invariant: the log is the only truth. Every other key of a shard can be rebuilt from it, and at every checkpoint they
// are equal to what the entries up to the applied index give.
//
// # Keys
//
// A key is the shard id (8 bytes, big-endian), one byte for the type, and the rest; so a shard is one span of keys.
// Shard 0 is the node itself. Integers in keys are big-endian, in values they are unsigned LEB128 varints (uv) unless a
// width is given (then little-endian). "grain" in a key is tenant, 0x00, kind, 0x00, key: none of them may hold 0x00.
//
//	type  name      rest                      value
//	0x01  log       index (8)                 a frame, see package entry
//	0x02  hard      -                         uv term, uv vote, uv commit
//	0x03  applied   -                         uv index, uv term, uv floor, uv lineage, uv last data entry, uv last journal
//	                                          time (µs), 8 bytes digest, then a raftpb.ConfState
//	0x04  head      grain                     uv seq, uv index of the entry with the last record, uv its journal time (µs)
//	0x05  snap      grain, 0x00, seq (8)      uv index, uv ordinal of the first chunk, uv journal time (µs)
//	0x06  inbox     source lineage (8)        uv index, uv ordinal, uv effect of the last send taken in
//	0x07  outbox    -                         uv index: all sends of the entries up to here were taken in by their targets;
//	                                          a hint: any smaller value is right too
//	0x08  producer  id                        uv epoch, uv watermark, uv journal time (µs) of the last record, uv count,
//	                                          then each of the newest entries with its events as uv last sequence, uv index
//	0x09  id        bucket (8), hash (8)      uv index, uv ordinal, uv journal time (µs), 8 bytes hash of the body
//	0x0a  timer     0x00, due (8), grain,     empty; due is a journal time (µs)
//	                0x00, id (8)
//	0x0a  timer     0x01, grain, 0x00, id (8) uv due, uv µs between firings (0: it fires once), uv index, uv ordinal, uv effect
//	                                          that set the reminder
//	0x0b  state     grain                     uv seq, uv version of the kind's logic; uv seq, uv index, uv ordinal, uv journal
//	                                          time (µs) of the last snapshot at or below that seq (all 0: none); then the state
//	0x0c to 0x10    reserved                  0x0c group, 0x0d tier, 0x0e key, 0x0f lineage, 0x10 quarantine
//	0x11  logic     kind                      uv index of the last logic change (0 none), uv count, then each era as uv version,
//	                                          uv index of the entry it begins with, see below
//	0x12  reply     bucket (8), grain, 0x00,  uv index, uv ordinal of the answer to the event of the grain with this seq
//	                seq (8)
//	0x13  dead      grain, 0x00, seq (8)      uv index, uv ordinal, uv journal time (µs): an open dead letter, see below
//	                -                         uv index: the keys above are those of the log up to here
//	0x7f  node      - (shard 0 only)          JSON: format, goarch, number of shards, node id
//
// The hash of an id is XXH64 over grain (as above), 0x00, source, 0x00, id; the hash of a body is XXH64 over type, 0x00,
// payload. The bucket is the journal time of the record in units of 6 hours; that of a reply is the answer's, so
// that it outlives the id of the event, and is looked for from the bucket of the event on. An answer with a reason has no key. The digest of applied is chained: XXH64 over
// the digest before (8 bytes) and the last 4 bytes (the CRC) of each data entry.
//
// # What is written when
//
// An append writes log and hard keys, with one sync for all shards of the node. Applying an entry changes memory only;
// a checkpoint writes all derived keys that changed since the last one, coalesced, in one unsynced batch together with
// applied. A crash so costs a replay of the entries behind the last checkpoint and nothing else.
//
// A state key is a snapshot that is not in the log: the state of a busy grain as of some checkpoint, with the XXH64 of
// state and seq in its last 8 bytes. It may be older than the head, and it may be missing; it only shortens the way from
// the last snapshot. The entries behind the last checkpoint are kept in memory as well.
//
// The eras of a kind say which version of its logic ran where: an era begins with the first record that names another
// version than the record of the kind before it. A logic change drops the eras of lower versions: no grain has records of
// them behind its last snapshot. If that leaves none, it begins one itself (docs/adr/0010).
//
// A dead key is written for a dead letter and goes with the settlement that names its seq. The one without a grain is
// written with every checkpoint. Where it is missing or names another index than applied, a version that knows no dead keys
// has applied entries: then the log up to applied is read when the shard is opened, and the next checkpoint writes them.
//
// A timer is a reminder that is pending: set by an effect, not canceled, and not at its end. A numbered record with a timer
// id is its firing, whatever came of the turn. That is the end of one that fires once. One that repeats, with e between
// firings, is due next at the first due + n × e that is behind the journal time of the firing. In one record the firing
// comes before the effects, and those come in their order. Both keys of a timer are written and deleted together; the event
// is in the log only.
//
// A grain's records are found from its head backwards: each names the entry before it that has records of the grain
// (docs/adr/0002). Snapshots have keys of their own, so that a moment in the past is found without walking from the end.
package persistence
