"""Archives to ask, and a node's settings: what tests and benchmarks share. Ports are the system's, places temporary."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time

DEADLINE_S = 30.0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process, log):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        assert process.poll() is None, "it ended: " + log.read_text(errors="replace")[-2000:]
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("nothing listens on port {}: {}".format(port, log.read_text(errors="replace")[-2000:]))


class Archive:
    """A running archive."""

    def __init__(self, ae_title, port, process, load):
        self.ae_title, self.port, self.process, self.load = ae_title, port, process, load

    def stop(self):
        self.process.terminate()
        self.process.wait(DEADLINE_S)


class Node:
    """A node's settings file and environment; the receiver is hosted by whoever asks."""

    def __init__(self, directory, port):
        self.directory, self.port, self.ae_title = directory, port, "SCP_NODE"
        self.images, self.cache = directory / "images", directory / "analysis"
        self.file = directory / "config.toml"
        self.sections = ""

    def write(self, archive, more=""):
        self.file.write_text(
            """
[node]
ae_title = "{ae}"
bind = "127.0.0.1"
port = {port}
[images]
root = '{images}'
[analysis]
cache = '{cache}'
{more}
[[archive]]
name = "aria"
ae_title = "{archive}"
host = "127.0.0.1"
port = {archive_port}
""".format(
                ae=self.ae_title,
                port=self.port,
                images=self.images,
                cache=self.cache,
                more=more,
                archive=archive.ae_title,
                archive_port=archive.port,
            )
        )


LUA = """
function IncomingFindRequestFilter(query, origin)
  local key = query['0008,0008']
  if type(key) == 'string' then query['0008,0008'] = string.gsub(key, '\\\\', '?') end
  return query
end
"""


def orthanc_program():
    """Orthanc, when it and DCMTK's storescu are installed."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    return program if shutil.which("storescu") else None


@contextlib.contextmanager
def orthanc_running(directory, node):
    """Orthanc as Aria's DB Service: knows our node only."""
    directory.mkdir()
    (directory / "aria.lua").write_text(LUA)
    port = free_port()
    modality = {"Host": "127.0.0.1", "AllowEcho": True, "AllowFind": False, "AllowMove": False, "AllowGet": False}
    settings = {
        "StorageDirectory": str(directory / "db"),
        "IndexDirectory": str(directory / "db"),
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowMove": False,
        "DicomAlwaysAllowGet": False,
        "DicomModalities": {
            "loader": dict(modality, AET="LOADER", Port=1, AllowStore=True),
            "node": dict(modality, AET=node.ae_title, Port=node.port, AllowFind=True, AllowMove=True, AllowStore=False),
        },
        "LuaScripts": [str(directory / "aria.lua")],
        "SynchronousCMove": True,
        "StorageAccessOnFind": "Always",
        "DicomScuPreferredTransferSyntax": "1.2.840.10008.1.2",
        "TranscodeDicomProtocol": False,
        "Plugins": [],
    }
    (directory / "orthanc.json").write_text(json.dumps(settings))
    log = directory / "log"
    with open(str(log), "wb") as output:
        process = subprocess.Popen(
            [orthanc_program(), str(directory / "orthanc.json")],
            stdout=output,
            stderr=output,
            cwd=str(directory),
            env=dict(os.environ, TCP_NODELAY="1"),
        )

    def load(files):
        # --scan-directories, --recurse: a directory of files in one association.
        command = ["storescu", "-aet", "LOADER", "-aec", "ORTHANC", "+sd", "+r", "127.0.0.1", str(port), str(files)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ, TCP_NODELAY="1"))
        assert done.returncode == 0, done.stdout.decode()

    try:
        wait_for_port(port, process, log)
        yield Archive("ORTHANC", port, process, load)
    finally:
        process.kill()
        process.wait()


class Aria(Archive):
    """The simulated Aria, which can be told to misbehave."""

    def __init__(self, process, directory):
        first = json.loads(process.stdout.readline())
        super().__init__(first["ae_title"], first["port"], process, self.reload)

    def order(self, **orders):
        """Sends an order; the answer counts finds and moves so far."""
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def reload(self, directory=None):
        self.order(reload=True)
