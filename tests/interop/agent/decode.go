package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// decodeAll answers each line of input with one line of output.
//
//	input    hb HEX        the inner object of a heartbeat, in hex
//	         rp HEX        the inner object of a report
//	         en HEX        the data of a classic frame
//	output   hb VERSION-HEX TIMESTAMP
//	         rp CONTENT-HEX RAND TIMESTAMP
//	         err TEXT
//
// Texts are in hex with a leading x, so that the empty one shows.
func decodeAll(input io.Reader, output io.Writer) error {
	lines := bufio.NewReader(input)
	out := bufio.NewWriter(output)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		kind, digits, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		data, err := hex.DecodeString(digits)
		if err != nil {
			return err
		}
		result, err := decodeOne(kind, data)
		if err != nil {
			result = fmt.Sprintf("err %q", err)
		}
		fmt.Fprintln(out, result)
	}
}

func decodeOne(kind string, data []byte) (string, error) {
	switch kind {
	case "hb":
		var heartbeat Heartbeat
		err := json.Unmarshal(data, &heartbeat)
		return fmt.Sprintf("hb x%x %d", heartbeat.Version, heartbeat.Timestamp), err
	case "rp":
		var report Report
		err := json.Unmarshal(data, &report)
		return fmt.Sprintf("rp x%x %d %d", report.Content, report.Rand, report.Timestamp), err
	case "en":
		var packet Packet
		if err := json.Unmarshal(data, &packet); err != nil {
			return "", err
		}
		switch packet.PacketType {
		case heartbeatType:
			return decodeOne("hb", packet.PacketContent)
		case reportType:
			return decodeOne("rp", packet.PacketContent)
		default:
			return "", fmt.Errorf("packet type %d", packet.PacketType)
		}
	default:
		return "", fmt.Errorf("kind %q", kind)
	}
}
