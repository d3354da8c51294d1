"""A real HTTP server that speaks like an OpenAI-compatible endpoint, behind which a test puts a judge of its own."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer:
    """Serves on loopback while it is entered.

    `answer(body, number)` makes the reply to the request of that number (from 0): a review, or a `Raw` reply.
    """

    def __init__(self, answer):
        self.answer = answer
        self.requests = []  # (path, headers, body) of each, in order of arrival
        self.guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.guard:
                    number = len(outer.requests)
                    outer.requests.append((self.path, dict(self.headers), body))
                reply = outer.answer(body, number)
                if not isinstance(reply, Raw):
                    reply = Raw(200, completion(reply, body["model"]))
                if reply.status is None:
                    self.connection.close()
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.data)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # clients that were killed, or were cut off
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Raw:
    """A reply of any kind; without status the connection is cut."""

    def __init__(self, status, data=b"", headers=()):
        self.status = status
        self.data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.headers = dict(headers)


def completion(text, model, finish="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"object": "chat.completion", "model": f"{model}-served", "choices": [choice]}


def answers_in(content):
    """The two answers that a prompt shows, in the order in which they stand."""
    found = re.findall(r"\[(Assistant [12])((?: \w{8})?)\]\n(.*?)\n+\[End of \1\2\]", content, flags=re.DOTALL)
    return [text for _, _, text in found]


def by_length(body, number=0):
    """An honest judge of simple taste: a mark per word."""
    marks = [max(1, min(10, len(text.split()))) for text in answers_in(body["messages"][-1]["content"])[:2]]
    return f"{marks[0]} {marks[1]}\nThe longer, the better."
