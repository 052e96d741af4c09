package integration

import (
	"net"
	"sync"
	"time"
)

// bridge is a proxy whose connections can be broken, stopped, or swallowed.
type bridge struct {
	l      net.Listener
	to     string
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	hole   bool
	pause  bool
	closed bool
}

func newBridge(to string) *bridge {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	b := &bridge{l: l, to: to, conns: map[net.Conn]struct{}{}}
	go b.serve()
	return b
}

func (b *bridge) serve() {
	for {
		in, err := b.l.Accept()
		if err != nil {
			return
		}
		for {
			b.mu.Lock()
			paused := b.pause && !b.closed
			b.mu.Unlock()
			if !paused {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		out, err := net.Dial("tcp", b.to)
		if err != nil {
			in.Close()
			continue
		}
		b.mu.Lock()
		b.conns[in], b.conns[out] = struct{}{}, struct{}{}
		b.mu.Unlock()
		go b.copy(in, out)
		go b.copy(out, in)
	}
}

func (b *bridge) copy(to, from net.Conn) {
	buf := make([]byte, 32*1024)
	for {
		n, err := from.Read(buf)
		b.mu.Lock()
		hole := b.hole
		b.mu.Unlock()
		if n > 0 && !hole {
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	b.mu.Lock()
	delete(b.conns, to)
	delete(b.conns, from)
	b.mu.Unlock()
}

func (b *bridge) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.Close()
	}
}

func (b *bridge) setHole(hole bool)   { b.mu.Lock(); b.hole = hole; b.mu.Unlock() }
func (b *bridge) setPause(pause bool) { b.mu.Lock(); b.pause = pause; b.mu.Unlock() }
func (b *bridge) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.l.Close()
	b.Reset()
}
