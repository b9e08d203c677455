package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"
)

// limit bounds each wait for the network, and with it the whole program.
const limit = 20 * time.Second

// A step is what goes onto the wire at once, and the lines that must come
// back for it: one for a frame, none for junk.
type step struct {
	bytes  []byte
	expect string
}

// A scenario is one connection's life.
type scenario struct {
	name  string
	steps []step
	send  func(*conversation, []step) error
}

// A conversation is a connection with checked replies.
type conversation struct {
	conn *net.TCPConn
	// checked gets one token for each reply line that was right, and is closed
	// when the checking has ended.
	checked chan struct{}
	// right counts those lines, outcome says what was wrong; both are for
	// reading once checked is closed.
	right   int
	outcome error
}

// lines is what must come back, in this order and no more.
func (s scenario) lines() []string {
	var lines []string
	for _, step := range s.steps {
		if step.expect != "" {
			lines = append(lines, step.expect)
		}
	}
	return lines
}

// run returns how many reply lines were right.
func (s scenario) run(addr string) (int, error) {
	dialled, err := net.DialTimeout("tcp", addr, limit)
	if err != nil {
		return 0, err
	}
	conn := dialled.(*net.TCPConn)
	defer conn.Close()

	lines := s.lines()
	c := &conversation{conn: conn, checked: make(chan struct{}, len(lines))}
	go c.check(lines)

	sendErr := s.send(c, s.steps)
	if sendErr == nil {
		sendErr = conn.CloseWrite()
	}
	if sendErr != nil {
		// An earlier reply of the server may explain the failure.
		conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	for range c.checked {
		// Runs to the end of the checking; send may have taken some tokens.
	}
	if c.outcome != nil {
		return 0, c.outcome
	}
	return c.right, sendErr
}

// check reads the reply lines, beginning before anything is sent, until the
// server has closed its side.
func (c *conversation) check(lines []string) {
	defer close(c.checked)
	replies := bufio.NewReader(c.conn)
	for n, expected := range lines {
		c.conn.SetReadDeadline(time.Now().Add(limit))
		line, err := replies.ReadString('\n')
		if err != nil || line != expected {
			c.outcome = fmt.Errorf("line %d of %d is %q (%v), not %q", n+1, len(lines), line, err, expected)
			c.conn.CloseRead()
			return
		}
		c.right++
		c.checked <- struct{}{}
	}
	c.conn.SetReadDeadline(time.Now().Add(limit))
	if rest, err := io.ReadAll(io.LimitReader(replies, 4096)); err != nil || len(rest) != 0 {
		c.outcome = fmt.Errorf("after all %d lines came %q (%v), not the end", len(lines), rest, err)
	}
}

func (c *conversation) write(bytes []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(limit))
	_, err := c.conn.Write(bytes)
	return err
}

// oneByOne writes each step by itself and waits for nothing.
func oneByOne(c *conversation, steps []step) error {
	for _, step := range steps {
		if err := c.write(step.bytes); err != nil {
			return err
		}
	}
	return nil
}

// askAndWait sends the next step only when the last one is answered.
func askAndWait(c *conversation, steps []step) error {
	for _, step := range steps {
		if err := c.write(step.bytes); err != nil {
			return err
		}
		if step.expect == "" {
			continue
		}
		if _, right := <-c.checked; !right {
			return nil // the outcome says why
		}
	}
	return nil
}

// pipelined writes everything at once.
func pipelined(c *conversation, steps []step) error {
	return c.write(join(steps))
}

// inPieces cuts the stream into pieces of these lengths, over and over, with a
// pause after each round so that the server does see pieces.
func inPieces(lengths ...int) func(*conversation, []step) error {
	return func(c *conversation, steps []step) error {
		stream := join(steps)
		for n := 0; len(stream) > 0; n++ {
			length := lengths[n%len(lengths)]
			if length > len(stream) {
				length = len(stream)
			}
			if err := c.write(stream[:length]); err != nil {
				return err
			}
			stream = stream[length:]
			if n%len(lengths) == len(lengths)-1 {
				time.Sleep(50 * time.Microsecond)
			}
		}
		return nil
	}
}

func join(steps []step) []byte {
	var stream []byte
	for _, step := range steps {
		stream = append(stream, step.bytes...)
	}
	return stream
}
