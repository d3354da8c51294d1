"""Pictures behind addresses: fetched where their host is named, within bounds, or else set aside with a reason."""

import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import content
from datasets import Dataset, Features, Value
from datasets import Image as Pictures
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import ConflictError, GenerationError, ImageError, TransientError
from vigc.generation import GenerateJob, correct_dataset, generate_dataset
from vigc.generation.sources import urls as addresses
from vigc.generation.sources.urls import Addresses
from vigc.jobs import ledger

LIMIT = 2**20

FIX = "download the file, or remove the entry"


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (number * 20 % 256, 40, 250 - number)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: `/good/<number>.png` is a picture, the others are what goes wrong."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, (kind, _, rest) = self.server, self.path[1:].partition("/")
        with server.lock:
            server.asked.append(self.path)
            if len(server.asked) == server.until:
                threading.Thread(target=server.shutdown).start()
        getattr(self, kind.replace("-", "_").split(".")[0], self.missing)(rest)

    def good(self, rest):
        self.send(200, picture(int(rest.split(".")[0])))

    def missing(self, rest):
        self.send(404, b"no")

    def page(self, rest):
        self.send(200, b"<html>not a picture</html>")

    def empty(self, rest):
        self.send(200, b"")

    def to(self, rest):
        self.send(302, b"", Location=rest if "://" in rest else f"/{rest}")

    def loop(self, rest):
        self.send(301, b"", Location=self.path)

    def busy(self, rest):
        self.send(503, b"", Retry_After="0")

    def flaky(self, rest):
        if self.server.asked.count(self.path) < 3:
            return self.send(500, b"")
        return self.good(rest)

    def broken(self, rest):
        self.send(200, picture(1)[:50], Content_Length="400")

    def large(self, rest):
        self.send(200, b"", Content_Length=str(LIMIT + 1))

    def endless(self, rest):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        block = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        while True:
            self.wfile.write(block)
            self.server.sent += 2**16

    def drip(self, rest):
        """Its headers first, a character at a time, for ever."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.02)

    def drip_body(self, rest):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            time.sleep(0.02)

    def silent(self, rest):
        self.server.over.wait(20)

    def send(self, status, body, **headers):
        self.send_response(status)
        self.close_connection = True
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    """Serves on the loopback while it is entered; `until` is the number of the request at which it goes away."""

    daemon_threads = True

    def __init__(self, port=0, until=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.lock, self.over, self.asked, self.sent, self.until = threading.Lock(), threading.Event(), [], 0, until
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def _serve(self):
        self.serve_forever(0.01)
        self.socket.close()

    def __exit__(self, *error):
        self.over.set()
        self.shutdown()
        self.thread.join()

    def handle_error(self, request, client_address):
        """Who stops reading breaks the connection."""


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch):
    monkeypatch.setattr(addresses, "SECONDS", 1.5)
    monkeypatch.setattr(addresses, "_WAITS", (0.01, 0.02))
    monkeypatch.setattr(addresses, "MAX_BYTES", LIMIT)


@pytest.fixture
def server():
    with Server() as server:
        yield server


def llava(path, names):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]
    path.write_text(json.dumps([{"id": i, "image": name, "conversations": turns} for i, name in enumerate(names)]))
    return path


def job(**given):
    scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "batch_size": 2}
    return {**scripted, "types": ["detail"], **given}


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def refused(place):
    return {
        f"{place}/missing/1.png": "cannot be fetched (the answer is 404 Not Found)",
        f"{place}/endless/1.jpg": "has more bytes than the limit of 1,048,576: make it smaller",
        f"{place}/large/1.jpg": "has more bytes than the limit of 1,048,576: make it smaller",
        f"{place}/drip.png": f"does not answer (it takes longer than 1.5 s, once): {FIX}",
        f"{place}/drip-body.png": f"does not answer (it takes longer than 1.5 s, once): {FIX}",
        f"{place}/silent.png": f"does not answer (it takes longer than 1.5 s, once): {FIX}",
        f"{place}/broken.png": f"does not answer (the answer broke off, 3 times): {FIX}",
        f"{place}/page.html": "is not an image in a supported format",
        f"{place}/empty.png": "is empty (0 bytes): get the file again",
        f"{place}/loop": "is redirected more than 5 times",
        f"{place}/to/http://localhost/x.png": "leads to 'http://localhost/x.png', on the host 'localhost', which "
        "--allow-urls does not name (127.0.0.1)",
        f"{place}/to/file:///etc/passwd": "leads to 'file:///etc/passwd', an address of the kind 'file': only http and "
        "https are fetched",
        "http://example.org/x.png": "is on the host 'example.org', which --allow-urls does not name (127.0.0.1)",
        "ftp://127.0.0.1/x.png": "is an address of the kind 'ftp': only http and https are fetched",
        "data:image/png;base64,AAAA": "its image name 'data:image/png;base64,AAAA' is the image itself",
        "http://me:secret@127.0.0.1/x.png": "is an address with a user's name, which is not sent",
        "http://127.0.0.1:x/": "is no address that can be asked",
        "http://\ud800/": "is no address that can be asked",
        f"http://127.0.0.1:{free_port()}/x.png": "does not answer ([Errno 111] Connection refused, 3 times)",
    }


def test_what_an_address_leads_to_is_a_row_or_set_aside(server, tmp_path):
    good = [f"{server.url}/good/{number}.png" for number in range(3)]
    good += [f"{server.url}/to/good/3.png?a b=ü", f"{server.url}/flaky/4.png"]
    bad = refused(server.url)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "here.png")
    names = [*good, "here.png", *bad]
    summary = generate_dataset(
        llava(tmp_path / "llava.json", names), tmp_path / "out", format="llava", allow_urls=["127.0.0.1"], **job()
    )
    aside = {record["path"]: record["reason"] for record in ledger.read_quarantine(tmp_path / "out")}
    assert set(aside) == {*bad}
    for name, reason in bad.items():
        assert aside[name].startswith(reason), (name, aside[name])
    assert summary.images == 6
    assert summary.set_aside == len(bad) and summary.rows == 6
    stored = [row["image"]["bytes"] for row in rows_of(tmp_path / "out")]
    assert stored[:5] == [picture(number) for number in range(5)]
    assert server.sent < 64 * LIMIT, "an endless answer is not read to its end"


def test_addresses_are_refused_unless_asked_for(server, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "here.png")
    path = llava(tmp_path / "llava.json", ["here.png", f"{server.url}/good/1.png"])
    summary = generate_dataset(path, tmp_path / "out", format="llava", **job())
    ((name, reason),) = summary.skipped
    assert name.endswith("/good/1.png") and "unless its host is named (--allow-urls HOST)" in reason
    assert server.asked == [] and summary.rows == 1
    with pytest.raises(ConflictError, match=r'allow_urls was null, now \["127\.0\.0\.1"\]'):
        generate_dataset(path, tmp_path / "out", format="llava", allow_urls=["127.0.0.1"], **job())


def test_what_a_star_lets_in_must_be_public(server):
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(
            ImageError, match=r"leads to .*, which is no public address: if that is meant, name the host"
        ):
            Addresses(["*"]).fetch(f"http://{host}:{server.port}/good/1.png")
    assert server.asked == []
    assert Addresses(["*", "LOCALHOST."]).fetch(f"http://localhost:{server.port}/good/1.png") == picture(1)
    for hosts, host in ((["*.example.org"], "example.org"), (["*.example.org"], "badexample.org")):
        with pytest.raises(ImageError, match="which --allow-urls does not name"):
            Addresses(hosts).fetch(f"http://{host}/1.png")


@pytest.mark.parametrize("hosts", ["a.org", ["http://a.org"], ["a.org/x"], [""], ["a*.org"], ["a.org:80"], ["*."]])
def test_what_is_no_host_is_said_at_once(hosts):
    with pytest.raises(GenerationError, match="allow_urls"):
        GenerateJob(images="x", allow_urls=hosts, **job())


def test_a_busy_host_that_was_named_ends_the_job_for_now(server, tmp_path):
    path = llava(tmp_path / "llava.json", [f"{server.url}/good/1.png", f"{server.url}/busy.png"])
    with pytest.raises(TransientError, match=r"the host is busy .503 Service Unavailable, 3 times.*later"):
        generate_dataset(path, tmp_path / "out", format="llava", allow_urls=["127.0.0.1"], **job())
    assert server.asked.count("/busy.png") == 3 and not (tmp_path / "out" / ledger.FINISHED).exists()


def test_a_network_that_goes_away_sets_nothing_aside(tmp_path):
    given = {"format": "llava", "allow_urls": ["127.0.0.1"], "shard_size": 4}
    with Server() as server:
        port = server.port
        path = llava(tmp_path / "llava.json", [f"{server.url}/good/{number}.png" for number in range(12)])
        generate_dataset(path, tmp_path / "one" / "data", **given, **job())
    with Server(port, until=8), pytest.raises(TransientError, match=r"do not answer.*run the same command again"):
        generate_dataset(path, tmp_path / "two" / "data", **given, **job())
    assert not (tmp_path / "two" / "data" / ledger.QUARANTINE).exists()
    with pytest.raises(TransientError, match="do not answer"):  # nobody ever did, in this process
        generate_dataset(path, tmp_path / "two" / "data", **given, **job())
    assert not (tmp_path / "two" / "data" / ledger.QUARANTINE).exists()
    with Server(port):
        assert generate_dataset(path, tmp_path / "two" / "data", **given, **job()).set_aside == 0
    assert content(tmp_path / "two" / "data") == content(tmp_path / "one" / "data")


@pytest.mark.parametrize("form", ["texts", "several", "pictures"])
def test_datasets_that_hold_addresses(server, tmp_path, form):
    urls = [f"{server.url}/good/{number}.png" for number in range(3)]
    if form == "pictures":
        features = Features({"image": Pictures(), "image_id": Value("string")})
        rows = [{"image": {"bytes": None, "path": url}, "image_id": url[-5]} for url in urls]
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data.parquet")
    else:
        column = {"image_url": urls} if form == "texts" else {"images": [[url] for url in urls]}
        pq.write_table(pa.table({**column, "image_id": ["0", "1", "2"]}), tmp_path / "data.parquet")
    given = {"format": "dataset", "allow_urls": ["127.0.0.1"], "dedup": True}
    assert generate_dataset(tmp_path / "data.parquet", tmp_path / "out", **given, **job()).images == 3
    assert [row["image"]["bytes"] for row in rows_of(tmp_path / "out")] == [picture(number) for number in range(3)]


def test_conversations_about_addresses_are_corrected(server, tmp_path):
    path = llava(tmp_path / "llava.json", [f"{server.url}/good/1.png", f"{server.url}/missing/1.png"])
    given = {name: value for name, value in job().items() if name != "types"}
    summary = correct_dataset(path, tmp_path / "out", allow_urls=["127.0.0.1"], **given)
    assert (summary.rows, summary.set_aside) == (1, 1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_certificates_are_looked_at(server, tmp_path, monkeypatch):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hosts = ["localhost", "127.0.0.1"]
    with pytest.raises(ImageError, match=r"has no valid certificate .self-signed"):
        Addresses(hosts).fetch(f"https://localhost:{server.port}/good/1.png")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    assert Addresses(hosts).fetch(f"https://localhost:{server.port}/good/1.png") == picture(1)
    with pytest.raises(ImageError, match=r"has no valid certificate .*IP address mismatch"):
        Addresses(hosts).fetch(f"https://127.0.0.1:{server.port}/good/1.png")
    with pytest.raises(ImageError, match=r"takes longer than 1\.5 s"):
        Addresses(hosts).fetch(f"https://localhost:{server.port}/drip-body.png")


def test_where_all_hosts_are_let_in_a_dead_one_is_set_aside_and_a_dead_network_is_not():
    star = Addresses(["*.invalid"])
    for _ in range(7):
        with pytest.raises(ImageError, match="does not answer"):
            star.fetch("http://nobody.invalid/1.png")
    with pytest.raises(TransientError, match="and other hosts do not answer"):
        star.fetch("http://nobody.invalid/1.png")


PUBLIC = "8.8.8.8 2606:4700::1111 64:ff9b::808:808 2002:808:808:: ::ffff:8.8.8.8 ::8.8.8.8"
NOT_PUBLIC = {
    "this machine": "127.0.0.1 ::1 0.0.0.0 ::",
    "this network": "10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 fc00::1 fe80::1 fe80::1%eth0 fec0::1 198.18.0.1",
    "many at once": "224.0.0.1 239.255.255.250 255.255.255.255 ff02::1 ff0e::1",
    "a cloud's": "169.254.169.254 192.0.0.192 168.63.129.16 100.100.100.200 fd00:ec2::254 fd20:ce::254",
    "mapped": "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:168.63.129.16 ::ffff:224.0.0.1",
    "compatible": "::127.0.0.1 ::10.0.0.1 ::169.254.169.254",
    "NAT64": "64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe 64:ff9b::a83f:8110 64:ff9b:1::808:808",
    "6to4": "2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe:: 2002:e000:1:: 192.88.99.1",
    "Teredo": "2001:0:a00:1::1 2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "nobody's": "240.0.0.1 192.0.2.1 2001:db8::1 3fff::1 100::1 5f00::1 4000::1 nonsense",
}


@pytest.mark.parametrize("kind", NOT_PUBLIC)
def test_addresses_that_are_not_of_the_internet(kind):
    assert all(map(addresses._is_public, PUBLIC.split()))
    assert [address for address in NOT_PUBLIC[kind].split() if addresses._is_public(address)] == []


@pytest.mark.parametrize("answer", [["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8.8", "239.1.1.1"]])
def test_one_private_address_of_an_answer_refuses_the_host(answer, monkeypatch):
    """A resolver that gives a public address first, so that a second look at the first alone would be content."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in answer]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: entries)
    connected = []
    monkeypatch.setattr(socket, "create_connection", lambda place, patience: connected.append(place) or 1 / 0)
    (private,) = (address for address in answer if address != "8.8.8.8")
    with pytest.raises(ImageError, match=f"leads to {private}, which is no public address"):
        Addresses(["*"]).fetch("http://example.org/1.png")
    assert connected == []
