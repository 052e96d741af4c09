"""What the Python package etcd3gw can do, with TLS and a client certificate, on the members whose host:port are the
arguments. The files are in the environment: TLS_CA, TLS_CERT, TLS_KEY.

The package knows nothing of users: the token of one is put into its session.

Says `kill` when the test is to kill the leader, and goes on when it is told that this was done.
"""

import os
import sys
import threading
import time

import etcd3gw
import requests

members = [argument.split(":") for argument in sys.argv[1:]]


def connect(host, port, user="root", password="secret"):
    session = requests.Session()
    # Else a bundle of certificates that is named in the environment takes the place of this one.
    session.trust_env = False
    session.verify, session.cert = os.environ["TLS_CA"], (os.environ["TLS_CERT"], os.environ["TLS_KEY"])
    client = etcd3gw.client(host=host, port=int(port), protocol="https", session=session, timeout=20)
    answer = client.post(client.get_url("/auth/authenticate"), json={"name": user, "password": password})
    session.headers["Authorization"] = answer["token"]
    return client


clients = [connect(*member) for member in members]
first, last = clients[0], clients[-1]

assert first.status()["version"].startswith("3.")
assert len(first.members()) == len(members)

assert first.put("tour/a", "1")
assert last.get("tour/a") == [b"1"]
assert first.create("tour/b", "2") and not first.create("tour/b", "3")
assert first.replace("tour/b", "2", "4") and not first.replace("tour/b", "2", "5")
assert [value for value, _ in last.get_prefix("tour/")] == [b"1", b"4"]
assert [value for value, _ in first.get_all(sort_order="descend", sort_target="key")] == [b"4", b"1"]

lease = first.lease(ttl=60)
assert last.put("tour/leased", "x", lease=lease)
assert lease.keys() == [b"tour/leased"] and 0 < lease.ttl() <= 60 and lease.refresh() == 60
assert lease.revoke() and last.get("tour/leased") == []

events, cancel = last.watch("tour/watched")
writer = threading.Timer(0.3, lambda: first.put("tour/watched", "seen"))
writer.start()
event = next(events)
assert event["kv"]["value"] == b"seen", event
cancel()
writer.join()

with first.lock("tour", ttl=20) as lock:
    assert lock.is_acquired()
    other = last.lock("tour", ttl=20)
    assert not other.acquire()
other = last.lock("tour", ttl=20)
assert other.acquire() and other.release()

try:
    first.put("", "x")
    raise AssertionError("an empty key was taken")
except etcd3gw.exceptions.Etcd3Exception as error:
    assert "key is not provided" in error.detail_text, error.detail_text

assert first.delete("tour/a") and not first.delete("tour/a")
assert last.delete_prefix("tour/") and first.get_prefix("tour/") == []

app = connect(*members[1], user="app", password="plain")
assert app.put("app/mine", "x") and app.get("app/mine") == [b"x"]
for denied in (lambda: app.get("tour/a"), lambda: connect(*members[0], user="app", password="wrong")):
    try:
        denied()
        raise AssertionError("it was allowed")
    except etcd3gw.exceptions.Etcd3Exception as error:
        assert "permission denied" in error.detail_text or "authentication failed" in error.detail_text, error.detail_text
assert app.delete("app/mine")

# The others go on when the leader dies.
lease = first.lease(ttl=30)
assert first.put("tour/leased", "x", lease=lease)
print("kill", flush=True)
killed = int(sys.stdin.readline())
for member, client in enumerate(clients):
    deadline = time.time() + 30
    while member != killed:
        try:
            assert client.put("tour/after", "y") and client.get("tour/leased") == [b"x"]
            break
        except etcd3gw.exceptions.Etcd3Exception:
            assert time.time() < deadline, "no write after the leader's death"
            time.sleep(0.1)
print("ok", flush=True)
