package main

import (
	"math"
	"math/rand"
	"strings"
)

// scenarios is all that is checked of a server. Nothing in it depends on the
// clock or on chance: each run sends the same bytes.
func scenarios() []scenario {
	everything := concat(reports(classic), heartbeats(classic), reports(compact), heartbeats(compact), named())
	small := concat(ofTheOriginal()[:5], named(), unusable())
	return []scenario{
		{"only the end", nil, oneByOne},
		{"the original's packets, one at a time", ofTheOriginal(), askAndWait},
		{"classic reports", reports(classic), oneByOne},
		{"classic heartbeats", heartbeats(classic), oneByOne},
		{"compact reports", reports(compact), oneByOne},
		{"compact heartbeats", heartbeats(compact), oneByOne},
		{"packets with the agent's name", named(), askAndWait},
		{"everything pipelined", everything, pipelined},
		{"everything in odd pieces", everything, inPieces(1, 2, 3, 5, 7, 1, 130, 4, 61, 8192)},
		{"byte by byte", small, inPieces(1)},
		{"long frames", long(), oneByOne},
		{"long frames in odd pieces", long(), inPieces(1, 65543, 4095, 3, 16384)},
		{"unusable frames", unusable(), askAndWait},
		{"unusable frames pipelined", unusable(), pipelined},
		{"damage between good frames", damaged(), oneByOne},
		{"damage pipelined", damaged(), pipelined},
		{"a deep pipeline", deep(), pipelined},
	}
}

type encoding func(packetType byte, inner interface{}) []byte

func report(encode encoding, content string, number, timestamp int64) step {
	return step{frame(encode(reportType, Report{content, number, timestamp})), reportReply}
}

func heartbeat(encode encoding, version string, timestamp int64) step {
	return step{frame(encode(heartbeatType, Heartbeat{version, timestamp})), heartbeatReply}
}

// ofTheOriginal is what the original client sends: reports of 0 to 49 letters,
// and heartbeats.
func ofTheOriginal() []step {
	random := rand.New(rand.NewSource(2016))
	var steps []step
	for length := 0; length < 50; length++ {
		letters := make([]byte, length)
		for i := range letters {
			letters[i] = byte('a' + random.Intn(26))
		}
		steps = append(steps,
			report(classic, string(letters), random.Int63(), 1475249220+int64(length)),
			heartbeat(classic, "1.0", 1475249220+int64(length)))
	}
	return steps
}

// numbers are the edges of what the integer fields hold.
var numbers = []int64{0, 1, -1, 1475249220, 3413719555719190332, math.MaxInt32, math.MinInt32, 1 << 53, math.MaxInt64, math.MinInt64}

// texts is every kind of string that encoding/json writes in a way of its own.
func texts() []string {
	list := []string{
		"", "plain", "<script>alert('&amp;')</script>", "<", ">", "&",
		"line\u2028separator", "paragraph\u2029separator",
		`"`, `\`, `\\`, `"quoted\"`, "/", "</", "tab\there", "new\nline", "\r\n",
		"emoji \U0001F600\U0010FFFF", "combining e\u0301 n\u0303", "\uFEFFbyte order mark",
		"\uFFFD", "\uFFFE\uFFFF", "\uD7FF\uE000", "\u0080\u00FF", "漢字かな한글", "مرحبا", "\u202Eright to left",
		// Not UTF-8: encoding/json writes \ufffd for each bad byte.
		"\x80", "\xC3", "\xC3(", "a\xFFb\xFEc", "\xF0\x9F\x98", "\xC0\x80", "\xF4\x90\x80\x80",
		// A surrogate's bytes, which are no UTF-8, and its escape as mere text.
		"\xED\xA0\x80", "\xED\xA0\xBD\xED\xB8\x80", `\ud800`, `\ud83d\ude00`, `\u0000`, `\n`,
		// What looks like the protocol itself.
		`{"PacketType":1,"PacketContent":"e30="}`, "heartBeat\n", "\x00{}", "\x01{}",
		strings.Repeat("<", 500), strings.Repeat("\u2028", 500),
	}
	for c := 0; c < 0x20; c++ {
		list = append(list, "a"+string(rune(c))+"b")
	}
	return append(list, "a\x7Fb", "\x00", strings.Repeat("\x00", 300))
}

func reports(encode encoding) []step {
	var steps []step
	for i, text := range texts() {
		steps = append(steps, report(encode, text, numbers[i%len(numbers)], numbers[(i/3)%len(numbers)]))
	}
	for _, number := range numbers {
		steps = append(steps, report(encode, "edge", number, -number))
	}
	return steps
}

func heartbeats(encode encoding) []step {
	var steps []step
	for i, text := range texts() {
		steps = append(steps, heartbeat(encode, text, numbers[i%len(numbers)]))
	}
	return steps
}

// named is packets with hawk's optional key, in both encodings.
func named() []step {
	var steps []step
	for _, name := range []string{"web-01", "a", "db <primary> & \"more\"", "münchen-\U0001F600", strings.Repeat("n", 128), "line\u2028separator"} {
		for _, encode := range []encoding{classic, compact} {
			steps = append(steps,
				step{frame(encode(reportType, NamedReport{Report{"x", 7, 1475249220}, name})), reportReply},
				step{frame(encode(heartbeatType, NamedHeartbeat{Heartbeat{"1.0", 1475249220}, name})), heartbeatReply})
		}
	}
	return steps
}

// long is frames up to the longest, and frames with a length that contains
// bytes of a marker.
func long() []step {
	var steps []step
	for _, length := range []int{4096, 16384, 0xFDFF, 0xFE00, 0xFEFF, 0xFF00, 0xFFFB, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF} {
		bare := len(compact(reportType, Report{"", 1, 2}))
		steps = append(steps,
			report(compact, strings.Repeat("x", length-bare), 1, 2),
			report(classic, longestClassic(length), 1, 2))
	}
	return steps
}

// longestClassic is the longest text with classic data of at most length bytes.
func longestClassic(length int) string {
	bare := len(toJSON(Report{"", 1, 2}))
	envelope := len(toJSON(Packet{reportType, []byte{}}))
	return strings.Repeat("y", (length-envelope)/4*3-bare)
}

// deep is more frames than any buffer holds replies for, in both kinds.
func deep() []step {
	var steps []step
	for n := int64(0); n < 5000; n++ {
		if n%7 == 0 {
			steps = append(steps, heartbeat(classic, "1.0", n))
		} else {
			steps = append(steps, report(classic, "deep", n, n))
		}
	}
	return steps
}

func concat(lists ...[]step) []step {
	var all []step
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}
