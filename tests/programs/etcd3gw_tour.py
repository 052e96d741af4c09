"""What the Python package etcd3gw can do, against the members whose host:port are the arguments."""

import sys
import threading

import etcd3gw

members = [argument.split(":") for argument in sys.argv[1:]]
clients = [etcd3gw.client(host=host, port=int(port)) for host, port in members]
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
print("ok")
