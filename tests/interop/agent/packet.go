package main

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
)

// Packet is the classic envelope, its fields named and typed as deployed.
type Packet struct {
	PacketType    byte
	PacketContent []byte
}

// The two numbers a Packet's PacketType may be.
const (
	heartbeatType byte = 0
	reportType    byte = 1
)

// Heartbeat is the inner object of packet type 0.
type Heartbeat struct {
	Version   string `json:"version"`
	Timestamp int64  `json:"timestamp"`
}

// Report is the inner object of packet type 1.
type Report struct {
	Content   string `json:"content"`
	Rand      int64  `json:"rand"`
	Timestamp int64  `json:"timestamp"`
}

// NamedHeartbeat is a Heartbeat of an agent that says its name.
type NamedHeartbeat struct {
	Heartbeat
	Agent string `json:"agent"`
}

// NamedReport is a Report of an agent that says its name.
type NamedReport struct {
	Report
	Agent string `json:"agent"`
}

// Reply lines, as deployed agents compare them.
const (
	heartbeatReply = "heartBeat\n"
	reportReply    = "Report data has recive\n"
)

// classic is the data that deployed agents send: JSON in base64 in JSON.
func classic(packetType byte, inner interface{}) []byte {
	return toJSON(Packet{packetType, toJSON(inner)})
}

// compact is the data of hawk's own encoding: the type, then the JSON itself.
func compact(packetType byte, inner interface{}) []byte {
	return append([]byte{packetType}, toJSON(inner)...)
}

func toJSON(value interface{}) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // none of the types above can fail
	}
	return text
}

// frame wraps data for the wire.
func frame(data []byte) []byte {
	if len(data) > 65535 {
		panic("data does not fit a frame")
	}
	out := []byte{0xFF, 0xFF}
	out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
	out = append(out, data...)
	out = binary.BigEndian.AppendUint16(out, uint16(crc32.ChecksumIEEE(data)>>16))
	return append(out, 0xFF, 0xFE)
}
