"""A web server on the loopback device that plays the host of a file, well or badly, as a script of answers says."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Host:
    """Serves `files` by path. `script` holds how to answer the next requests; when it is empty it answers well.

    Answers: "ok", "cut N" (closes after N bytes of the body), "stall N" (stops sending after N bytes), "slow" (waits a
    quarter of a second first), "no range" (sends all of it), "wrong range", "status CODE", "tampered" (right length,
    wrong bytes), "short" (claims and sends half), "chunked cut", "redirect ADDRESS", "page" (a login page).
    HEAD is answered as Hugging Face does, and stands in no script.
    """

    def __init__(self):
        self.files, self.script, self.requests, self.etag, self.release = {}, [], [], '"one"', threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"host": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def ranges(self):
        return [headers.get("Range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    host: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()

    def do_HEAD(self):
        content = self.host.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", self.host.etag)
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        return self.end_headers()

    def do_GET(self):
        self.close_connection = True
        self.host.requests.append((self.path, dict(self.headers)))
        how, _, value = (self.host.script.pop(0) if self.host.script else "ok").partition(" ")
        content = self.host.files.get(re.sub(r"^http://[^/]+", "", self.path))
        if content is None or how == "status":
            return self.send_error(int(value or 404))
        if how == "redirect":
            self.send_response(302)
            self.send_header("Location", value)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = self._start(content, how)
        if start is None:
            return self.send_error(416)
        return self._send(content, start, how, value)

    def _start(self, content, how):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked or how == "no":
            return 0
        return int(asked[1]) if int(asked[1]) < len(content) else None

    def _send(self, content, start, how, value):
        if how == "tampered":
            content = bytes(255 - byte for byte in content)
        if how == "page":
            content = b"<!DOCTYPE html><title>Log in</title>".ljust(len(content))
        if how == "short":
            content = content[: len(content) // 2]
        self.send_response(206 if start else 200)
        if how == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (100, content[:100]))
            return
        self.send_header("Content-Length", str(len(content) - start))
        if self.host.etag:
            self.send_header("ETag", self.host.etag)
        if start:
            first = start + 1 if how == "wrong" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self._body(content[start:], how, value)

    def _body(self, body, how, value):
        if how == "slow":
            time.sleep(0.25)
        if how in ("cut", "stall"):
            self.wfile.write(body[: int(value)])
            self.wfile.flush()
            if how == "stall":
                self.host.release.wait(5)
        else:
            self.wfile.write(body)
