// Command agent speaks to hawk as deployed agents do: with Go's own
// encoding/json and hash/crc32, which define the protocol.
//
//	agent -addr 127.0.0.1:9876   talk to a server and check every reply line
//	agent -decode                say what encoding/json makes of the inputs on
//	                             standard input, one a line (see decode.go)
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	addr := flag.String("addr", "", "address of the server to check")
	decode := flag.Bool("decode", false, "decode the inputs on standard input instead")
	flag.Parse()

	var err error
	switch {
	case *decode:
		err = decodeAll(os.Stdin, os.Stdout)
	case *addr != "":
		err = checkServer(*addr)
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Println("interop:", err)
		os.Exit(1)
	}
}

// checkServer runs every scenario against the server, each over a connection
// of its own.
func checkServer(addr string) error {
	frames, replies := 0, 0 // frames that call for a reply; junk is not counted
	for _, s := range scenarios() {
		right, err := s.run(addr)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		frames += len(s.lines())
		replies += right
	}
	fmt.Printf("interop: %d frames, %d replies right\n", frames, replies)
	return nil
}
