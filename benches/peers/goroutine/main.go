// Command goroutine is a server to compare hawk with: a goroutine for each
// connection and another for each packet, as in the demonstration of 2016 from
// which hawk's protocol comes. It is correct for well-formed frames, and as
// robust as the original.
//
// It says "listening on ADDRESS" on standard error, and prints a line for each
// packet on standard output.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"log"
	"net"
	"os"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9876", "address to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "listening on %s\n", listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Print(err)
			continue
		}
		go serve(conn)
	}
}

// overhead is the bytes of a frame that are not data: markers, length and sum.
const overhead = 8

// serve collects frames a byte at a time and hands each to a goroutine.
func serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	var frame []byte
	for {
		b, err := reader.ReadByte()
		if err != nil {
			return
		}
		frame = append(frame, b)
		switch {
		case len(frame) <= 2:
			if b != 0xFF {
				frame = frame[:0]
			}
		case len(frame) >= 4 && len(frame) == int(binary.BigEndian.Uint16(frame[2:]))+overhead:
			if data, ok := check(frame); ok {
				go handle(conn, data)
			}
			// The goroutine has the frame now, so the next one gets its own.
			frame = nil
		}
	}
}

// check returns the data of a frame with a right end marker and checksum.
func check(frame []byte) ([]byte, bool) {
	data, trailer := frame[4:len(frame)-4], frame[len(frame)-4:]
	sum := uint16(crc32.ChecksumIEEE(data) >> 16)
	return data, binary.BigEndian.Uint16(trailer) == sum && trailer[2] == 0xFF && trailer[3] == 0xFE
}

type packet struct {
	PacketType    byte
	PacketContent []byte
}

type heartbeat struct {
	Version   string `json:"version"`
	Timestamp int64  `json:"timestamp"`
}

type report struct {
	Content   string `json:"content"`
	Rand      int64  `json:"rand"`
	Timestamp int64  `json:"timestamp"`
}

// handle decodes and answers one packet. The replies of a connection may
// overtake each other, as they did in the original.
func handle(conn net.Conn, data []byte) {
	var p packet
	if err := json.Unmarshal(data, &p); err != nil {
		log.Print(err)
		return
	}
	switch p.PacketType {
	case 0:
		var h heartbeat
		if err := json.Unmarshal(p.PacketContent, &h); err != nil {
			log.Print(err)
			return
		}
		fmt.Printf("heartbeat version=%s timestamp=%d\n", h.Version, h.Timestamp)
		conn.Write([]byte("heartBeat\n"))
	case 1:
		var r report
		if err := json.Unmarshal(p.PacketContent, &r); err != nil {
			log.Print(err)
			return
		}
		fmt.Printf("report content=%s rand=%d timestamp=%d\n", r.Content, r.Rand, r.Timestamp)
		conn.Write([]byte("Report data has recive\n"))
	}
}
