"""A stand-in for the Hugging Face Hub on loopback: the few endpoints that push, pull and run use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stub"


class StubHub:
    """Repositories by name, each a list of commits (files by name). ``gated`` and ``private``: names of such."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.url = ""

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit's id and files; None for a revision that is not there."""
        commits = self.commits[repo]
        for number, files in enumerate(commits):
            sha = hashlib.sha1(f"{repo}{number}".encode()).hexdigest()
            if revision in (sha, f"v{number}") or (revision == "main" and number == len(commits) - 1):
                return sha, files
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StubHub

    def log_message(self, *_: Any) -> None:
        """Nothing to the test's output."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), Content_Type="application/json")

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if not self._authorised():
            return self._json({"error": "Invalid credentials"}, 401)
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'owner'}/{asked['name']}"
            known = repo in self.hub.commits
            self.hub.commits.setdefault(repo, [{".gitattributes": b""}])
            if not known and (asked.get("private") or asked.get("visibility") == "private"):
                self.hub.private.add(repo)
            return self._json({"url": f"{self.hub.url}/{repo}"}, 409 if known else 200)
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        repo = "/".join(parts[2:4])
        if repo not in self.hub.commits or len(parts) < 5:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self._json(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        files = dict(self.hub.commits[repo][-1])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]
        self.hub.commits[repo].append(files)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/x", "commitOid": "x" * 40, "success": True})

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        rest = parts[4:] if api else parts[2:]
        if repo not in self.hub.commits or (repo in self.hub.private and not self._authorised()):
            return self._answer(404, X_Error_Code="RepoNotFound")
        if repo in self.hub.gated:
            return self._answer(403, X_Error_Code="GatedRepo")
        found = self.hub.files(repo, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        sha, files = found
        if not api and rest[0] == "resolve":
            name = "/".join(rest[2:])
            if name not in files:
                return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            etag = hashlib.sha1(files[name]).hexdigest()
            return self._answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=sha)
        if rest and rest[0] == "tree":
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        return self._json({"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]})

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def stub_hub() -> Iterator[StubHub]:
    """A running stub, gone when the block ends."""
    hub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
