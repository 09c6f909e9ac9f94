"""Archives to ask, and a node's settings: what tests and benchmarks share. Ports are free ones, places temporary."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time

DEADLINE_S = 30.0
# Below the range from which Linux takes ports of outgoing connections, which would take a free one before its peer does.
PORTS = range(15_000, 32_000)


class Ended(AssertionError):
    """A peer that ended before it listened."""


def free_port():
    """A port that nobody listens on at this moment, for programs that cannot choose one themselves."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for_port(port, process, log):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Ended("it ended: " + log.read_text(errors="replace")[-2000:])
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
    try:
        process, port = orthanc_started(directory, node)
    except Ended:  # somebody else took its port
        process, port = orthanc_started(directory, node)

    def load(files):
        # --scan-directories, --recurse: a directory of files in one association.
        command = ["storescu", "-aet", "LOADER", "-aec", "ORTHANC", "+sd", "+r", "127.0.0.1", str(port), str(files)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ, TCP_NODELAY="1"))
        assert done.returncode == 0, done.stdout.decode()

    try:
        yield Archive("ORTHANC", port, process, load)
    finally:
        process.kill()
        process.wait()


def orthanc_started(directory, node):
    """The process, once it listens, and its port."""
    port = free_port()
    (directory / "orthanc.json").write_text(json.dumps(orthanc_settings(directory, node, port)))
    log = directory / "log"
    with open(str(log), "wb") as output:
        process = subprocess.Popen(
            [orthanc_program(), str(directory / "orthanc.json")],
            stdout=output,
            stderr=output,
            cwd=str(directory),
            env=dict(os.environ, TCP_NODELAY="1"),
        )
    try:
        wait_for_port(port, process, log)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, port


def orthanc_settings(directory, node, port):
    modality = {"Host": "127.0.0.1", "AllowEcho": True, "AllowFind": False, "AllowMove": False, "AllowGet": False}
    return {
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
