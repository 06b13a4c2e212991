// Package entry is the journal's byte format: entries, the records inside them, and the frame they are stored in. It is
// pure: bytes in, values out. Here never live files, Pebble, clocks or goroutines.
//
// Invariant: what [Builder] writes, every later version of this package reads, and what a version cannot honour it
// refuses by name instead of skipping it. Golden files in testdata hold every released form.
//
// # Notation
//
// uv is an unsigned LEB128 varint, sv a zig-zag one, bytes a uv length followed by that many bytes, name a uv index into
// the entry's table of names. Fixed-size integers are little-endian. CRC is CRC-32C (Castagnoli).
//
// # Frame: what is stored under a log key
//
//	byte    frame format, 1
//	byte    Raft entry type (0 normal, 1 and 2 configuration change)
//	uv      Raft term
//	…       data of the Raft entry: empty, a configuration change, or an entry as below
//	4 bytes CRC over the shard id and the index (8 bytes each, big-endian, not stored here) and all of the above,
//	        so that a value found under a wrong key is noticed. This rule holds for every frame format, so that
//	        damage can always be told from a later version
//
// # Entry: what a leader proposes
//
//	byte    entry format, 1
//	uv      codec of the records (0 as they are)
//	uv      compression dictionary id (0 none)
//	uv      encryption key id (0 none)
//	uv      feature level: a reader below it must stop (now 1)
//	uv      shard lineage
//	uv      execution term: the term in which the turns ran
//	uv      index that the leader gave this entry
//	uv      index of the data entry before it (0 none)
//	uv      time base, Unix microseconds
//	uv      number of names, then each as bytes
//	uv      number of records, then each as uv length and a record
//	4 bytes CRC over all of the above
//
// Lineage, execution term, index and previous data entry are the fence of speculation: where one of them does not match the
// place the entry has in the log, the entry is void as a whole.
//
// # Record
//
//	byte    type
//	uv      presence: bit i set when field i is there
//	…       the fields that are there, in the order of their bits
//
//	bit  field
//	 0   tenant            name
//	 1   grain             name of the kind, key as bytes
//	 2   seq               uv, the grain's own 1, 2, 3 …
//	 3   back              uv, index of this entry minus that of the last earlier entry with a numbered record of the grain;
//	                       absent in a grain's first entry; the same for all records of a grain in one entry
//	 4   time              uv, journal time minus time base, microseconds
//	 5   event             name, full name of the event's message
//	 6   event time        sv, Unix nanoseconds
//	 7   source            name
//	 8   id                bytes
//	 9   producer          name, then uv epoch
//	10   sequence          uv, the producer's
//	11   cause             uv lineage, uv index, uv ordinal of the record that sent this event
//	12   sender            uv shard, uv number of the effect in the cause, name of the kind, key as bytes
//	13   hops              uv
//	14   trace             bytes, W3C trace context
//	15   headers           uv count, then name and value as bytes each
//	16   schema            uv, schema id of payload or state
//	17   logic             uv, version of the kind's logic that ran
//	18   digest            8 bytes, of the effects and the reply, see below
//	19   payload           bytes
//	20   effects           uv count, then effects
//	21   reply             bytes, see below
//	22   expiry            uv, journal time after which the record may go, microseconds
//	23   state after       bytes, the state a remote handler answered
//	24   reason            bytes, why a void record was refused or a dead letter died
//	25   timer             uv, id of the reminder that fired
//	26   snapshot          uv chunk, uv chunks, uv codec, uv key id, 8 bytes XXH64 of the whole state,
//	                       uv count of pending reminders, then each as uv id, uv due time, name of the event, bytes
//	27   extensions        uv count, then uv id and bytes each; a reader that does not know an odd id must stop
//
// The ordinal of a record is its place in the entry, from 0. A snapshot record has the seq of the record it follows and
// takes none of its own.
//
// A logic change names a kind, with an empty key, and in logic a version: behind it no grain of that kind in the shard has
// records of a lower version that are not covered by a snapshot.
//
// A settlement names a grain and the seq of a dead letter of it that was open, and in reason how it was settled: "retried"
// or "dropped". Behind a retry it is in the entry of the second run, behind that record. The second run has the event, event
// time, source, sender, hops, trace and payload of the dead letter, but no id, producer, sequence and cause; and the header
// granary-retry-of says the seq in decimal. So a record with a sender and no cause was taken in before and moves no inbox.
//
// A field is present only if it is not zero. Where it has several parts, the kind (of grain, sender and to), the name of
// the producer, the index of the cause or the number of the chunk decides, and is never zero in a field that is there.
//
// The digest is XXH64 over, for each effect: uv type, kind, key, event and payload as bytes each, uv due, uv timer, stream
// and reply token as bytes each, with zeros and empty bytes for what is absent, and uv every if it is there; and then the reply as bytes. Where that
// gives 0, it is 1. A record without effects and reply has none.
//
// # Effect
//
//	byte    type: 1 send, 2 reminder, 3 cancel, 4 publish, 5 defer
//	uv      presence
//	 0   to                name of the kind, key as bytes
//	 1   event             name
//	 2   payload           bytes
//	 3   due               uv, journal time in microseconds
//	 4   timer             uv
//	 5   stream            name
//	 6   reply token       bytes
//	 7   every             uv, microseconds between the firings of a reminder that repeats
//
// A send with a reply token is no event of its target, but the reply to the event that the token names: its event and
// payload are those of the reply. There it becomes an answer: a record with the grain and the seq of the event that is
// answered, the event, payload, cause and sender of the send, and no seq of its own. One that has no effect, because the
// event was answered before, did not defer or is not there, has the reason. A defer has no fields. A reply, in a record, is a google.protobuf.Any in wire form.
package entry
