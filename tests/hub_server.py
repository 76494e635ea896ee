"A Hugging Face hub on loopback: repositories in memory, and the requests that huggingface_hub makes of one."
import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writes"


class Hub(ThreadingHTTPServer):
    "`repos`: name -> file -> bytes. `mode`: 'regular' or 'lfs', how ticket files are uploaded."
    daemon_threads = True

    def __init__(self, mode="regular"):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos, self.private, self.objects, self.asked, self.mode = {}, set(), {}, [], mode

    @property
    def address(self): return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(mode="regular"):
    "Run a hub until the block ends."
    hub = Hub(mode)
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try: yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class Answer(BaseHTTPRequestHandler):
    "Answers one request."
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words): pass

    def say(self, code, body=b"", error="", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(content), "X-Error-Code": error, **headers}.items():
            if value != "": self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(content)

    def handle_all(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        may_write = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command == "PUT": return self.put(path, body)
        if self.command == "POST": return self.post(path, body, may_write)
        return self.download(path)

    do_GET = do_HEAD = do_POST = do_PUT = handle_all

    def put(self, path, body):
        "The content of a large file."
        assert path == f"lfs/{hashlib.sha256(body).hexdigest()}", path
        self.server.objects[path.removeprefix("lfs/")] = body
        self.say(200)

    def post(self, path, body, may_write):
        if path == "api/validate-yaml":
            text = json.loads(body)["content"]
            return self.say(200, {} if text.startswith("---\n") else {"warnings": [{"message": "no front matter"}]})
        if not may_write: return self.say(401, {"error": "Invalid username or password."})
        if path == "api/repos/create": return self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"): return self.batch(json.loads(body))
        repo, _, action = path.removeprefix("api/models/").rpartition("/")[0].rpartition("/")
        if repo not in self.server.repos: return self.say(404, error="RepoNotFound")
        return self.preupload(json.loads(body)) if action == "preupload" else self.commit(repo, body)

    def create(self, asked):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        code = 409 if name in self.server.repos else 200
        self.server.repos.setdefault(name, {})
        if asked.get("private") or asked.get("visibility") == "private": self.server.private.add(name)
        self.say(code, {"url": f"{self.server.address}/{name}", "error": "You already created this model repo"})

    def preupload(self, asked):
        def mode(path): return self.server.mode if path.endswith(".safetensors") else "regular"
        files = [dict(path=f["path"], uploadMode=mode(f["path"]), shouldIgnore=False) for f in asked["files"]]
        self.say(200, {"files": files})

    def batch(self, asked):
        objects = [dict(o, actions=dict(upload=dict(href=f"{self.server.address}/lfs/{o['oid']}")))
                   for o in asked["objects"]]
        self.say(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def commit(self, repo, body):
        for line in body.decode().splitlines():
            part = json.loads(line)
            value, files = part["value"], self.server.repos[repo]
            if part["key"] == "file": files[value["path"]] = base64.b64decode(value["content"])
            if part["key"] == "lfsFile": files[value["path"]] = self.server.objects[value["oid"]]
        sha = commit_of(files)
        self.say(200, {"commitUrl": f"{self.server.address}/{repo}/commit/{sha}", "commitOid": sha})

    def download(self, path):
        repo, found, rest = path.partition("/resolve/")
        if not found or repo not in self.server.repos: return self.say(404, error="RepoNotFound")
        revision, _, name = rest.partition("/")
        files = self.server.repos[repo]
        if revision not in ("main", commit_of(files)): return self.say(404, error="RevisionNotFound")
        if name not in files: return self.say(404, error="EntryNotFound", X_Repo_Commit=commit_of(files))
        etag = hashlib.sha256(files[name]).hexdigest()
        self.say(200, files[name], X_Repo_Commit=commit_of(files), ETag=f'"{etag}"', Accept_Ranges="bytes")


def commit_of(files):
    "Return a commit of 40 digits that changes with the files."
    return hashlib.sha1(repr(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())).encode()).hexdigest()
