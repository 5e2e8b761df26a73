# SPDX-License-Identifier: Apache-2.0
"""A local server that answers the calls of huggingface_hub for one repository: made, committed to,
listed and downloaded. Files are kept in memory; every file counts as a small one, so it travels in
the commit itself.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Repository:
    """What the stub holds, and the calls that it got."""

    def __init__(self, name, files=None):
        self.name = name
        self.files = dict(files or {})
        self.calls = []
        self.is_private = None

    @property
    def sha(self):
        text = repr(sorted((name, data) for name, data in self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()


def _etag(data):
    return hashlib.sha1(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    repository: Repository

    def log_message(self, *args):
        pass

    def _answer(self, value, status=200, headers=None, body=None):
        data = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        headers = {"Content-Type": "application/json", **(headers or {})}
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code):
        self._answer({"error": code}, 404, {"X-Error-Code": code})

    def do_GET(self):
        repository = self.repository
        path = self.path.split("?")[0]
        repository.calls.append((self.command, path))
        api, resolve = f"/api/models/{repository.name}", f"/{repository.name}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in repository.files]
            sha = repository.sha
            self._answer({"id": repository.name, "sha": sha, "siblings": siblings})
        elif path.startswith(f"{api}/tree/"):
            files = repository.files.items()
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in files
                ]
            )
        elif path.startswith(resolve):
            self._file(path.removeprefix(resolve).partition("/")[2])
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_GET

    def _file(self, name):
        data = self.repository.files.get(name)
        if data is None:
            self._missing("EntryNotFound")
            return
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        body = data[int(start[1]) :] if start else data
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": self.repository.sha}
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
        self._answer(None, 206 if start else 200, headers, body)

    def do_POST(self):
        repository = self.repository
        path = self.path.split("?")[0]
        repository.calls.append((self.command, path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            made = json.loads(content)  # "private" of huggingface_hub 1, "visibility" since
            repository.is_private = made.get("private", made.get("visibility") == "private")
            self._answer({"url": f"http://{self.headers['Host']}/{repository.name}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(content)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._answer({"files": files})
        elif "/commit/" in path:
            for line in content.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    repository.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/{repository.name}/commit/{repository.sha}"
            self._answer({"commitUrl": url, "commitOid": repository.sha, "hookOutput": ""})
        else:
            self._missing("RepoNotFound")


@contextlib.contextmanager
def served(repository):
    """Serve a repository; gives the address for HF_ENDPOINT."""
    handler = type("Handler", (_Handler,), {"repository": repository})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
