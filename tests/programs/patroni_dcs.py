"""Patroni's own etcd3 classes as two nodes that want to lead, with TLS, a client certificate and a user, against the members
whose host:port are the arguments. The files are in the environment: TLS_CA, TLS_CERT, TLS_KEY.

Says `kill` when the test is to kill the leader of the store, and goes on when it is told that this was done.
"""

import os
import sys
import threading
import time

from patroni.dcs import get_dcs


def node(name):
    # The cluster's other parameters have the shortest values that Patroni allows.
    etcd3 = {"hosts": sys.argv[1:], "protocol": "https", "username": "root", "password": "secret",
             "cacert": os.environ["TLS_CA"], "cert": os.environ["TLS_CERT"], "key": os.environ["TLS_KEY"]}
    config = {"etcd3": etcd3, "namespace": "/service/", "scope": "test", "name": name}
    return get_dcs({**config, "ttl": 20, "loop_wait": 1, "retry_timeout": 6})


def wait_for(what, condition, seconds=20):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, what
        time.sleep(0.1)


one, two = node("one"), node("two")
assert one.initialize(create_new=True, sysid="7") and not two.initialize(create_new=True, sysid="8")
assert one.touch_member({"role": "primary", "state": "running"}) and two.touch_member({"role": "replica"})
assert one.attempt_to_acquire_leader() and not two.attempt_to_acquire_leader()

cluster = one.get_cluster()
assert cluster.initialize == "7" and cluster.leader.name == "one", cluster
assert sorted(member.name for member in cluster.members) == ["one", "two"], cluster

# A change of the leader's key wakes whoever waits.
woken = []
two.get_cluster()
waiter = threading.Thread(target=lambda: woken.append(two.watch(None, 15)))
waiter.start()
time.sleep(1)
assert one.set_config_value('{"ttl": 20}')
assert one.update_leader(one.get_cluster(), 1)
assert one.delete_leader(one.get_cluster().leader)
waiter.join(10)
assert woken == [True], woken
assert one.attempt_to_acquire_leader()

# The leader of the store dies; the leader in the store stays.
print("kill", flush=True)
sys.stdin.readline()
for _ in range(15):
    assert one.update_leader(one.get_cluster(), 2), "leadership was lost with the leader of the store"
    assert not two.attempt_to_acquire_leader()
    time.sleep(0.5)
assert two.get_cluster().leader.name == "one"

# It goes, and the other one takes over.
assert one.delete_leader(one.get_cluster().leader)
wait_for("two leads", two.attempt_to_acquire_leader)
wait_for("one sees it", lambda: one.get_cluster().leader is not None and one.get_cluster().leader.name == "two")
print("ok", flush=True)
