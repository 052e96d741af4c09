"""What Kubernetes does with its store, asked of two kube-apiservers that share one.

Arguments: their URLs. It says `kill` for the store's leader to be killed, and `restart` for the first kube-apiserver to be; it
goes on when it is told that this is done. Only the standard library: there is a Python wherever there is a test.
"""

import http.client
import json
import ssl
import sys
import threading
import time
import urllib.parse

PATIENCE = 60
TOKEN = "admin-token"
WIDGETS = "/apis/example.org/v1/namespaces/tour/widgets"
MERGE, JSON_PATCH, APPLY = (f"application/{kind}" for kind in ("merge-patch+json", "json-patch+json", "apply-patch+yaml"))


class Refused(Exception):
    def __init__(self, code, body):
        super().__init__(f"{code}: {body}")
        self.code, self.body = code, body


class Api:
    """One kube-apiserver. A call goes over a connection of its own."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url).netloc

    def open(self, method, path, body=None, kind="application/json", timeout=PATIENCE):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.address, context=context, timeout=timeout)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection, connection.getresponse()

    def call(self, method, path, body=None, kind="application/json"):
        connection, response = self.open(method, path, body, kind)
        text = response.read().decode()
        connection.close()
        if response.status >= 300:
            raise Refused(response.status, text)
        return json.loads(text) if text.startswith("{") else text

    def get(self, path, **query):
        return self.call("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))

    def pages(self, path, limit, between=lambda: None):
        """A list page by page, and its resource version."""
        items, more, version = [], "", None
        while True:
            page = self.get(path, limit=limit, **({"continue": more} if more else {}))
            assert len(page["items"]) <= limit, page
            assert version in (None, page["metadata"]["resourceVersion"]), "pages of one list have one version"
            version = page["metadata"]["resourceVersion"]
            items += page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return items, version
            between()


class Watch(threading.Thread):
    """Follows a collection from a version on, again and again when the stream ends, until told to stop."""

    def __init__(self, api, path, version):
        super().__init__(daemon=True)
        self.api, self.path, self.version = api, path, int(version)
        self.events, self.failure, self.stopping, self.bookmarks = [], None, False, 0
        self.start()

    def run(self):
        while not self.stopping:
            try:
                self.follow()
            except (OSError, http.client.HTTPException, ssl.SSLError):
                time.sleep(0.1)
            except Exception as error:  # noqa: BLE001: told by whoever waits
                self.failure = error
                return

    def follow(self):
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion={self.version}"
        connection, response = self.api.open("GET", self.path + query)
        if response.status >= 500:
            connection.close()
            time.sleep(0.1)
            return
        assert response.status == 200, (response.status, response.read())
        for line in response:
            event = json.loads(line)
            assert event["type"] != "ERROR", event
            version = int(event["object"]["metadata"]["resourceVersion"])
            if event["type"] == "BOOKMARK":
                assert version >= self.version, event
                self.bookmarks += 1
            else:
                assert version > self.version, f"{event} after {self.version}"
                self.events.append((event["type"], event["object"]["metadata"]["name"], version))
            self.version = version
        connection.close()

    def wait(self, kind, name):
        def is_there():
            assert self.failure is None, self.failure
            return any(event[:2] == (kind, name) for event in self.events)

        until(is_there, f"{kind} {name}")


def until(holds, what, patience=PATIENCE):
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.1)


def refused(code, call):
    try:
        answer = call()
    except Refused as error:
        assert error.code == code, error
        return error.body
    raise AssertionError(f"not refused: {answer}")


def persistently(call):
    """Repeats what fails because the store has no leader. A conflict on the way is our own earlier attempt."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (OSError, http.client.HTTPException) as error:
            assert time.monotonic() < end, error
        except Refused as error:
            if error.code == 409 and "already exists" in error.body:
                return None
            assert error.code >= 500 and time.monotonic() < end, error
        time.sleep(0.2)


def widget(name, size, **more):
    return {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": name, **more}, "spec": {"size": size}}


def ready(api):
    def is_ready():
        try:
            return api.get("/readyz") == "ok" and bool(api.get("/api/v1/namespaces/default"))
        except (OSError, http.client.HTTPException, Refused):
            return False

    until(is_ready, f"{api.address} is ready", 120)


def define(one, other):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget"}
    one.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]},
    })
    one.call("POST", "/api/v1/namespaces", {"metadata": {"name": "tour"}})

    def served(api):
        try:
            return api.get(WIDGETS)["items"] == []
        except Refused as error:
            assert error.code in (404, 503), error
            return False

    for api in (one, other):
        until(lambda: served(api), f"{api.address} serves widgets")


def lists_in_pages(one, other):
    for number in range(25):
        one.call("POST", WIDGETS, widget(f"w{number:02}", number, labels={"even": str(number % 2 == 0).lower()}))
    added = iter(range(100))
    more = lambda: one.call("POST", WIDGETS, widget(f"late{next(added)}", 0))
    items, version = other.pages(WIDGETS, 10, more)
    assert [item["metadata"]["name"] for item in items] == [f"w{number:02}" for number in range(25)], items
    assert len(one.pages(WIDGETS, 10)[0]) == 27
    first = one.get(WIDGETS, limit=10)
    assert first["metadata"]["remainingItemCount"] == 17, first["metadata"]
    exact = one.get(WIDGETS, resourceVersion=version, resourceVersionMatch="Exact", limit=100)
    assert len(exact["items"]) == 25 and exact["metadata"]["resourceVersion"] == version
    return version


def changes(one, other, version):
    watch = Watch(other, WIDGETS, version)
    path = f"{WIDGETS}/w00"
    before = one.get(path)
    refused(409, lambda: one.call("POST", WIDGETS, widget("w00", 1)))
    before["spec"]["size"] = 100
    after = one.call("PUT", path, before)
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    # What was read before is too old now, through whichever server.
    refused(409, lambda: other.call("PUT", path, before))
    patched = other.call("PATCH", path, {"spec": {"size": 101}}, MERGE)
    assert patched["spec"]["size"] == 101
    test = lambda size: [{"op": "test", "path": "/spec/size", "value": size}, {"op": "replace", "path": "/spec/size", "value": 7}]
    refused(422, lambda: one.call("PATCH", path, test(1), JSON_PATCH))
    assert one.call("PATCH", path, test(101), JSON_PATCH)["spec"]["size"] == 7
    stale = widget("w00", 9, resourceVersion=before["metadata"]["resourceVersion"])
    refused(409, lambda: one.call("PATCH", path, stale, MERGE))

    apply = lambda api, manager, size, **query: api.call(
        "PATCH", f"{WIDGETS}/applied?{urllib.parse.urlencode({'fieldManager': manager, **query})}", widget("applied", size), APPLY)
    apply(one, "ann", 1)
    apply(other, "ann", 2)
    assert "conflict" in refused(409, lambda: apply(other, "bob", 3))
    taken = apply(other, "bob", 3, force="true")
    managers = {entry["manager"] for entry in taken["metadata"]["managedFields"]}
    assert taken["spec"]["size"] == 3 and "bob" in managers, taken

    one.call("DELETE", f"{WIDGETS}?labelSelector=even%3Dtrue")
    left = {item["metadata"]["name"] for item in other.get(WIDGETS)["items"]}
    assert left == {f"w{number:02}" for number in range(1, 25, 2)} | {"applied", "late0", "late1"}, left
    for number in range(0, 25, 2):
        watch.wait("DELETED", f"w{number:02}")
    for name in ("w00", "applied"):
        watch.wait("MODIFIED", name)
    assert [event[1] for event in watch.events[:2]] == ["late0", "late1"], watch.events
    until(lambda: watch.bookmarks > 0, "a bookmark")
    return watch


def leases(one, other):
    """Candidates that each renew with the version that they have read: in each round one wins."""
    path = "/apis/coordination.k8s.io/v1/namespaces/tour/leases"
    one.call("POST", path, {"metadata": {"name": "leader"}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 15}})
    for number in range(10):
        lease = one.get(f"{path}/leader")
        outcomes = []

        def campaign(api, who):
            mine = json.loads(json.dumps(lease))
            mine["spec"]["holderIdentity"] = who
            try:
                api.call("PUT", f"{path}/leader", mine)
                outcomes.append(who)
            except Refused as error:
                assert error.code == 409, error

        names = [f"{number}.{candidate}" for candidate in range(4)]
        threads = [threading.Thread(target=campaign, args=((one, other)[i % 2], who)) for i, who in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1, outcomes
        assert other.get(f"{path}/leader")["spec"]["holderIdentity"] == outcomes[0]


def event_ends(one, other):
    """An Event hangs on a lease of the store (`--event-ttl`)."""
    path = "/api/v1/namespaces/tour/events"
    watch = Watch(other, path, other.get(path)["metadata"]["resourceVersion"])
    regards = {"kind": "Widget", "name": "w01", "namespace": "tour", "apiVersion": "example.org/v1"}
    one.call("POST", path, {"metadata": {"name": "short"}, "involvedObject": regards, "reason": "Tour", "message": "x", "type": "Normal"})
    assert one.get(f"{path}/short")["reason"] == "Tour"
    watch.wait("ADDED", "short")
    watch.wait("DELETED", "short")
    refused(404, lambda: one.get(f"{path}/short"))
    watch.stopping = True


def survives(one, other, watch):
    """Writes go on when the store's leader dies, and who watches through either server misses nothing."""
    say("kill")
    for number in range(20):
        for api, name in ((one, "a"), (other, "b")):
            persistently(lambda: api.call("POST", WIDGETS, widget(f"kill-{name}{number}", number)))
    for number in range(20):
        for name in ("a", "b"):
            watch.wait("ADDED", f"kill-{name}{number}")
    say("restart")
    ready(one)
    until(lambda: same(one, other), "both servers tell the same from their caches and from the store")


def same(one, other):
    lists = [api.get(WIDGETS, **query) for api in (one, other) for query in ({}, {"resourceVersion": "0"})]
    told = [{item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found["items"]} for found in lists]
    return all(each == told[0] for each in told)


def compacted(one, token, version):
    """kube-apiserver compacts (`--etcd-compaction-interval`): who was away too long is told so."""

    def is_gone():
        try:
            one.get(WIDGETS, limit=10, **{"continue": token})
            return False
        except Refused as error:
            assert error.code == 410, error
            return True

    until(is_gone, "an old page has expired", 120)
    refused(410, lambda: one.get(WIDGETS, resourceVersion=version, resourceVersionMatch="Exact", limit=1))


def end_namespace(one, other):
    """As the namespace controller does it: what is in it first, then its finalizer, and then it goes."""
    one.call("DELETE", "/api/v1/namespaces/tour")
    ending = other.get("/api/v1/namespaces/tour")
    assert ending["status"]["phase"] == "Terminating", ending
    assert "terminat" in refused(403, lambda: one.call("POST", WIDGETS, widget("too-late", 1)))
    for path in (WIDGETS, "/apis/coordination.k8s.io/v1/namespaces/tour/leases", "/api/v1/namespaces/tour/events"):
        one.call("DELETE", path)
        assert other.get(path)["items"] == []
    ending["spec"]["finalizers"] = []
    one.call("PUT", "/api/v1/namespaces/tour/finalize", ending)
    until(lambda: all(is_missing(api, "/api/v1/namespaces/tour") for api in (one, other)), "the namespace is gone")


def is_missing(api, path):
    try:
        api.get(path)
        return False
    except Refused as error:
        assert error.code == 404, error
        return True


def say(word):
    print(word, flush=True)
    assert sys.stdin.readline().strip(), "nobody answers"


def main():
    one, other = (Api(url) for url in sys.argv[1:])
    for api in (one, other):
        ready(api)
    define(one, other)
    version = lists_in_pages(one, other)
    token = one.get(WIDGETS, limit=10)["metadata"]["continue"]
    watch = changes(one, other, version)
    leases(one, other)
    event_ends(one, other)
    survives(one, other, watch)
    compacted(one, token, version)
    assert watch.failure is None, watch.failure
    end_namespace(one, other)
    print("ok")


main()
