package main

import "strings"

// unusable is frames that pass the frame check with unusable data, each
// followed by a good frame: the connection must stay open.
func unusable() []step {
	list := []struct{ data, reply string }{
		{"", "error: empty data\n"},
		{"\x01", "error: empty data\n"},
		{`{"PacketType":0,"PacketContent":null}`, "error: empty data\n"},
		{"\x02{}", "error: unknown encoding\n"},
		{"\xEF\xBB\xBF{}", "error: unknown encoding\n"},
		{"hello", "error: malformed JSON\n"},
		{"{", "error: malformed JSON\n"},
		{"\x00{}x", "error: malformed JSON\n"},
		{"{}", "error: missing field\n"},
		{`{"PacketType":1}`, "error: missing field\n"},
		{`{"PacketType":"1","PacketContent":"e30="}`, "error: wrong type\n"},
		{"\x00{\"version\":1}", "error: wrong type\n"},
		{`{"PacketType":256,"PacketContent":"e30="}`, "error: number out of range\n"},
		{"\x01{\"rand\":9223372036854775808}", "error: number out of range\n"},
		{`{"PacketType":2,"PacketContent":"e30="}`, "error: unknown packet type\n"},
		{`{"PacketType":1,"PacketContent":"e30"}`, "error: bad base64\n"},
		{"\x00" + string(toJSON(NamedHeartbeat{Heartbeat{"1.0", 1}, ""})), "error: bad agent name\n"},
		{"\x00" + string(toJSON(NamedHeartbeat{Heartbeat{"1.0", 1}, strings.Repeat("n", 129)})), "error: bad agent name\n"},
		{"\x01" + string(toJSON(NamedReport{Report{"", 1, 1}, "two\nlines"})), "error: bad agent name\n"},
	}
	var steps []step
	for n, unusable := range list {
		steps = append(steps,
			step{frame([]byte(unusable.data)), unusable.reply},
			report(classic, "good", int64(n), 1475249220))
	}
	return steps
}

// damaged is frames that were hurt on their way, and junk, among good ones.
// Only a frame with a wrong checksum and no other fault is answered.
func damaged() []step {
	hurt := func(change func(bytes []byte) []byte) []byte {
		return change(heartbeat(classic, "1.0", 1475249220).bytes)
	}
	flipped := func(at int) []byte {
		return hurt(func(bytes []byte) []byte { bytes[at] ^= 1; return bytes })
	}
	damage := []step{
		{flipped(10), "error: checksum mismatch\n"},
		{hurt(func(b []byte) []byte { b[len(b)-3] ^= 1; return b }), "error: checksum mismatch\n"},
		{hurt(func(b []byte) []byte { b[len(b)-1] = 0xFD; return b }), ""},
		{hurt(func(b []byte) []byte { b[0] = 'x'; return b }), ""},
		{hurt(func(b []byte) []byte { b[2] = 0x40; return b }), ""},
		{hurt(func(b []byte) []byte { return b[:len(b)/2] }), ""},
		{hurt(func(b []byte) []byte { return b[5:] }), ""},
		{[]byte("GET / HTTP/1.1\r\n\r\n"), ""},
		{[]byte{0xFF}, ""},
		{[]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, ""},
		{[]byte(strings.Repeat("\xFF\xFE", 1000)), ""},
		{[]byte(strings.Repeat("\x00", 20000)), ""},
	}
	steps := []step{report(classic, "first", 1, 1)}
	for n, fault := range damage {
		steps = append(steps, fault,
			report(classic, "behind the damage", int64(n), 2),
			heartbeat(compact, "1.0", int64(n)))
	}
	return steps
}
