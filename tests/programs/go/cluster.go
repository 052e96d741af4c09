// Package integration stands in for etcd's package of the same name, with as much of it as etcd's tests of its client and
// of its API use. Its members are processes: of the command line in SERVER, with their files below DIR.
//
// What etcd's tests reach into a member for is not there: partitions, clocks, and intervals that are variables of etcd.
package integration

import (
	"context"
	"fmt"
	"io/ioutil"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/etcdserver/api/v3lock/v3lockpb"
	"go.etcd.io/etcd/etcdserver/api/v3rpc"
	pb "go.etcd.io/etcd/etcdserver/etcdserverpb"
	"go.etcd.io/etcd/pkg/transport"
	"go.etcd.io/etcd/pkg/types"
	"google.golang.org/grpc"
)

const (
	RequestWaitTimeout = 3 * time.Second
	ThroughProxy       = false

	// The members' heartbeat and election timeout are one and ten of these.
	tickDuration  = 50 * time.Millisecond
	electionTicks = 10

	// original is where etcd's own package is.
	original        = "/usr/share/gocode/src/go.etcd.io/etcd/integration/"
	defaultTokenJWT = "jwt,pub-key=" + original + "fixtures/server.crt,priv-key=" + original +
		"fixtures/server.key.insecure,sign-method=RS256,ttl=1s"
)

var (
	testTLSInfo          = tlsInfo("fixtures/server")
	testTLSInfoIP        = tlsInfo("fixtures/server-ip")
	testTLSInfoExpired   = tlsInfo("fixtures-expired/server")
	testTLSInfoExpiredIP = tlsInfo("fixtures-expired/server-ip")
)

func tlsInfo(name string) transport.TLSInfo {
	return transport.TLSInfo{
		KeyFile:        original + name + ".key.insecure",
		CertFile:       original + name + ".crt",
		TrustedCAFile:  original + filepath.Dir(name) + "/ca.crt",
		ClientCertAuth: true,
	}
}

// ClusterConfig has etcd's fields; those that say how a member works inside change nothing here.
type ClusterConfig struct {
	Size      int
	PeerTLS   *transport.TLSInfo
	ClientTLS *transport.TLSInfo

	DiscoveryURL string
	AuthToken    string
	AuthTokenTTL uint
	UseGRPC      bool

	QuotaBackendBytes      int64
	MaxTxnOps              uint
	MaxRequestBytes        uint
	SnapshotCount          uint64
	SnapshotCatchUpEntries uint64

	GRPCKeepAliveMinTime  time.Duration
	GRPCKeepAliveInterval time.Duration
	GRPCKeepAliveTimeout  time.Duration

	SkipCreatingClient       bool
	ClientMaxCallSendMsgSize int
	ClientMaxCallRecvMsgSize int
	UseIP                    bool

	EnableLeaseCheckpoint       bool
	LeaseCheckpointInterval     time.Duration
	LeaseCheckpointPersist      bool
	WatchProgressNotifyInterval time.Duration
	CorruptCheckTime            time.Duration
}

type serverConfig struct {
	PeerURLs      types.URLs
	ElectionTicks int
}

func (serverConfig) ReqTimeout() time.Duration { return 7 * time.Second }

type member struct {
	ServerConfig serverConfig
	serverConfig
	DataDir           string
	QuotaBackendBytes int64
	ClientTLSInfo     *transport.TLSInfo
	DialOptions       []grpc.DialOption

	name    string
	cfg     *ClusterConfig
	client  string
	peer    string
	initial string
	state   string
	bridge  *bridge
	process *exec.Cmd
	done    chan struct{}
	log     *os.File
}

func (m *member) GRPCAddr() string {
	return strings.Replace(m.bridge.l.Addr().String(), "127.0.0.1", "localhost", 1)
}

func (m *member) Launch() error {
	if err := m.launch(); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return nil
}

func (m *member) InjectPartition(t testing.TB, others ...*member)  { t.Skip("partition") }
func (m *member) RecoverPartition(t testing.TB, others ...*member) {}
func (m *member) Pause()                                           { m.process.Process.Signal(syscall.SIGSTOP) }
func (m *member) Resume()                                          { m.process.Process.Signal(syscall.SIGCONT) }

func NewClusterByConfig(t testing.TB, cfg *ClusterConfig) *cluster { return newCluster(t, cfg) }

func (m *member) DropConnections()               { m.bridge.Reset() }
func (m *member) Blackhole()                     { m.bridge.setHole(true) }
func (m *member) Unblackhole()                   { m.bridge.setHole(false) }
func (m *member) PauseConnections()              { m.bridge.setPause(true) }
func (m *member) UnpauseConnections()            { m.bridge.setPause(false) }
func (m *member) StopNotify() <-chan struct{}    { return m.done }
func (m *member) ElectionTimeout() time.Duration { return electionTicks * tickDuration }

// ReadyNotify is closed: whoever has launched a member has waited for it.
func (m *member) ReadyNotify() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (m *member) ID() types.ID {
	cli, err := NewClientV3(m)
	if err != nil {
		panic(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := cli.Status(ctx, m.GRPCAddr())
	if err != nil {
		panic(err)
	}
	return types.ID(resp.Header.MemberId)
}

func (m *member) Metric(name string) (string, error) {
	resp, err := http.Get("http://" + m.client + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, _ := ioutil.ReadAll(resp.Body)
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, name) {
			return strings.Split(l, " ")[1], nil
		}
	}
	return "", nil
}

func (m *member) launch() error {
	c := "http://" + m.client
	args := []string{"--name", m.name, "--data-dir", m.DataDir, "--heartbeat-interval", fmt.Sprint(tickDuration.Milliseconds()),
		"--election-timeout", fmt.Sprint(electionTicks * tickDuration.Milliseconds())}
	if m.cfg.ClientTLS != nil {
		c = "https://" + m.client
		args = append(args, "--cert-file", m.cfg.ClientTLS.CertFile, "--key-file", m.cfg.ClientTLS.KeyFile, "--trusted-ca-file", m.cfg.ClientTLS.TrustedCAFile, "--client-cert-auth")
	}
	args = append(args, "--listen-client-urls", c, "--advertise-client-urls", c, "--listen-peer-urls", "http://"+m.peer,
		"--initial-advertise-peer-urls", "http://"+m.peer, "--initial-cluster", m.initial, "--initial-cluster-state", m.state)
	flag := func(name string, set bool, value interface{}) {
		if set {
			args = append(args, fmt.Sprintf("--%s=%v", name, value))
		}
	}
	// As in etcd's package: its tests change members of clusters that have just started.
	flag("strict-reconfig-check", true, false)
	flag("quota-backend-bytes", m.QuotaBackendBytes != 0, m.QuotaBackendBytes)
	flag("max-txn-ops", m.cfg.MaxTxnOps != 0, m.cfg.MaxTxnOps)
	flag("max-request-bytes", m.cfg.MaxRequestBytes != 0, m.cfg.MaxRequestBytes)
	flag("auth-token", m.cfg.AuthToken != "", m.cfg.AuthToken)
	flag("auth-token-ttl", m.cfg.AuthTokenTTL != 0, m.cfg.AuthTokenTTL)
	flag("grpc-keepalive-min-time", m.cfg.GRPCKeepAliveMinTime != 0, m.cfg.GRPCKeepAliveMinTime)
	flag("grpc-keepalive-interval", m.cfg.GRPCKeepAliveInterval != 0, m.cfg.GRPCKeepAliveInterval)
	flag("grpc-keepalive-timeout", m.cfg.GRPCKeepAliveTimeout != 0, m.cfg.GRPCKeepAliveTimeout)
	// Tests set the interval in the configuration, or a variable of etcd's.
	interval := m.cfg.WatchProgressNotifyInterval
	if interval == 0 {
		interval = v3rpc.GetProgressReportInterval()
	}
	flag("experimental-watch-progress-notify-interval", true, interval)
	command := strings.Fields(os.Getenv("SERVER"))
	m.process = exec.Command(command[0], append(command[1:], args...)...)
	m.process.Stdout, m.process.Stderr = m.log, m.log
	m.process.Env = []string{}
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.done = make(chan struct{})
	if err := m.process.Start(); err != nil {
		return err
	}
	go func(p *exec.Cmd, done chan struct{}) { p.Wait(); close(done) }(m.process, m.done)
	return nil
}

func (m *member) Stop(t testing.TB) {
	if m.process == nil {
		return
	}
	m.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.done:
	case <-time.After(10 * time.Second):
		m.process.Process.Kill()
		<-m.done
	}
	m.process = nil
}

func (m *member) Restart(t testing.TB) error {
	if err := m.launch(); err != nil {
		return err
	}
	m.WaitOK(t)
	return nil
}

func (m *member) Terminate(t testing.TB) {
	m.bridge.Close()
	if m.process != nil {
		m.process.Process.Kill()
		<-m.done
		m.process = nil
	}
	os.RemoveAll(m.DataDir)
}

func (m *member) WaitOK(t testing.TB) {
	cli, err := NewClientV3(m)
	// A member listens once it has a leader: where many start at once that may take longer than a client dials.
	for i := 0; i < 5 && err != nil; i++ {
		cli, err = NewClientV3(m)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	for i := 0; i < 60; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err = cli.Status(ctx, m.GRPCAddr())
		cancel()
		if err == nil || strings.Contains(err.Error(), "user name is empty") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(err)
}

func NewClientV3(m *member) (*clientv3.Client, error) {
	scheme := "http://"
	cfg := clientv3.Config{DialTimeout: 5 * time.Second, DialOptions: []grpc.DialOption{grpc.WithBlock()},
		MaxCallSendMsgSize: m.cfg.ClientMaxCallSendMsgSize, MaxCallRecvMsgSize: m.cfg.ClientMaxCallRecvMsgSize}
	if m.ClientTLSInfo != nil {
		scheme = "https://"
		tls, err := m.ClientTLSInfo.ClientConfig()
		if err != nil {
			return nil, err
		}
		cfg.TLS = tls
	}
	cfg.Endpoints = []string{scheme + m.GRPCAddr()}
	return clientv3.New(cfg)
}

type cluster struct {
	cfg     *ClusterConfig
	Members []*member
	dir     string
}

type ClusterV3 struct {
	*cluster
	mu      sync.Mutex
	clients []*clientv3.Client
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newCluster(t testing.TB, cfg *ClusterConfig) *cluster {
	dir, err := ioutil.TempDir(os.Getenv("DIR"), "go")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{cfg: cfg, dir: dir}
	var all []string
	for i := 0; i < cfg.Size; i++ {
		c.Members = append(c.Members, c.newMember(t, i))
		all = append(all, fmt.Sprintf("m%d=http://%s", i, c.Members[i].peer))
	}
	for _, m := range c.Members {
		m.initial, m.state = strings.Join(all, ","), "new"
	}
	return c
}

func (c *cluster) newMember(t testing.TB, i int) *member {
	m := &member{name: fmt.Sprintf("m%d", i), cfg: c.cfg, client: freePort(), peer: freePort()}
	m.QuotaBackendBytes, m.ClientTLSInfo = c.cfg.QuotaBackendBytes, c.cfg.ClientTLS
	m.DataDir = filepath.Join(c.dir, m.name)
	u, _ := url.Parse("http://" + m.peer)
	// etcd's tests wait for so many ticks of 10 ms.
	ticks := int(electionTicks * tickDuration / (10 * time.Millisecond))
	m.ServerConfig = serverConfig{PeerURLs: types.URLs{*u}, ElectionTicks: ticks}
	m.serverConfig = m.ServerConfig
	m.bridge = newBridge(m.client)
	log, err := os.Create(filepath.Join(c.dir, m.name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	m.log = log
	return m
}

func (c *cluster) Launch(t testing.TB) {
	for _, m := range c.Members {
		if err := m.launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members {
		m.WaitOK(t)
	}
	c.WaitLeader(t)
	// Who answers a linearizable read is connected to the leader.
	for _, m := range c.Members {
		m.waitServing(t)
	}
}

func (m *member) waitServing(t testing.TB) {
	cli, err := NewClientV3(m)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := cli.Get(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) WaitLeader(t testing.TB) int { return c.waitLeader(t, c.Members) }

func (c *cluster) waitLeader(t testing.TB, members []*member) int {
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		lead, index, agree := uint64(0), -1, true
		for i, m := range members {
			if m.process == nil {
				continue
			}
			cli, err := NewClientV3(m)
			if err != nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			resp, err := cli.Status(ctx, m.GRPCAddr())
			cancel()
			cli.Close()
			if err != nil || resp.Leader == 0 || (lead != 0 && lead != resp.Leader) {
				agree = false
				break
			}
			lead = resp.Leader
			if resp.Header.MemberId == lead {
				index = i
			}
		}
		if agree && index >= 0 {
			return index
		}
	}
	t.Fatal("no leader")
	return -1
}

func (c *cluster) Terminate(t testing.TB) {
	for _, m := range c.Members {
		m.Terminate(t)
		m.log.Close()
	}
	if t == nil || !t.Failed() {
		os.RemoveAll(c.dir)
	}
}

func NewClusterV3(t testing.TB, cfg *ClusterConfig) *ClusterV3 {
	clus := &ClusterV3{cluster: newCluster(t, cfg)}
	clus.Launch(t)
	if !cfg.SkipCreatingClient {
		for _, m := range clus.Members {
			client, err := NewClientV3(m)
			if err != nil {
				t.Fatalf("cannot create client: %v", err)
			}
			clus.clients = append(clus.clients, client)
		}
	}
	return clus
}

func (c *ClusterV3) TakeClient(idx int) {
	c.mu.Lock()
	c.clients[idx] = nil
	c.mu.Unlock()
}

func (c *ClusterV3) Terminate(t testing.TB) {
	c.mu.Lock()
	for _, client := range c.clients {
		if client != nil {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	c.mu.Unlock()
	c.cluster.Terminate(t)
}

func (c *ClusterV3) RandClient() *clientv3.Client  { return c.clients[rand.Intn(len(c.clients))] }
func (c *ClusterV3) Client(i int) *clientv3.Client { return c.clients[i] }

func (c *ClusterV3) GetLearnerMembers() ([]*pb.Member, error) {
	resp, err := c.Client(0).MemberList(context.Background())
	if err != nil {
		return nil, err
	}
	var learners []*pb.Member
	for _, m := range resp.Members {
		if m.IsLearner {
			learners = append(learners, m)
		}
	}
	return learners, nil
}

func (c *ClusterV3) MustNewMember(t testing.TB, resp *clientv3.MemberAddResponse) *member {
	m := c.newMember(t, len(c.Members))
	var all []string
	for _, old := range c.Members {
		all = append(all, fmt.Sprintf("%s=http://%s", old.name, old.peer))
	}
	u, _ := url.Parse(resp.Member.PeerURLs[0])
	m.peer = u.Host
	m.initial, m.state = strings.Join(append(all, fmt.Sprintf("%s=http://%s", m.name, m.peer)), ","), "existing"
	return m
}

func (c *ClusterV3) AddAndLaunchLearnerMember(t testing.TB) {
	resp, err := c.Client(0).MemberAddAsLearner(context.Background(), []string{"http://" + freePort()})
	if err != nil {
		t.Fatal(err)
	}
	m := c.MustNewMember(t, resp)
	c.Members = append(c.Members, m)
	if err := m.launch(); err != nil {
		t.Fatal(err)
	}
	m.WaitOK(t)
}

func WaitClientV3(t testing.TB, kv clientv3.KV) {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		_, err := kv.Get(ctx, "abc")
		cancel()
		if err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("timed out waiting for client")
}

type grpcAPI struct {
	Cluster     pb.ClusterClient
	KV          pb.KVClient
	Lease       pb.LeaseClient
	Watch       pb.WatchClient
	Maintenance pb.MaintenanceClient
	Auth        pb.AuthClient
	Lock        v3lockpb.LockClient
	Election    v3electionpb.ElectionClient
}

func toGRPC(c *clientv3.Client) grpcAPI {
	return grpcAPI{
		pb.NewClusterClient(c.ActiveConnection()), pb.NewKVClient(c.ActiveConnection()),
		pb.NewLeaseClient(c.ActiveConnection()), pb.NewWatchClient(c.ActiveConnection()),
		pb.NewMaintenanceClient(c.ActiveConnection()), pb.NewAuthClient(c.ActiveConnection()),
		v3lockpb.NewLockClient(c.ActiveConnection()), v3electionpb.NewElectionClient(c.ActiveConnection()),
	}
}

func newClientV3(cfg clientv3.Config) (*clientv3.Client, error) { return clientv3.New(cfg) }
