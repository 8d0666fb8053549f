"""The folder of a run: ``run.json`` and one ``.npz`` per finished shard."""

from __future__ import annotations

import hashlib
import json
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..files import write_npz, written_whole

if TYPE_CHECKING:
    from ._work import Job

Result = Mapping[str, NDArray[Any]]

FORMAT = 1
ANOTHER = "give the same options again, or choose another folder"
RESULT = "result/"  # before the names of a job's arrays, so that they meet none of ours
NFS_PATIENCE_S = 60.0  # NFS clients believe for so long that a new file is not there (acdirmax)


@dataclass(frozen=True)
class Store:
    """Reads and writes the files of one run. Cheap to pickle."""

    folder: Path
    digest: str  # sha256 of run.json's content

    @classmethod
    def of(cls, job: Job, folder: Path) -> Store:
        """Open the folder of a run, or make it.

        Raises:
            AttendriteError: It is the folder of another run, or its parent does not exist.
        """
        folder = folder.absolute()
        about = {"format": FORMAT, "shards": job.shards, "identity": job.identity()}
        try:
            text = json.dumps(about, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise errors.must("the identity of a job", "be plain JSON", str(error)) from None
        if not folder.parent.is_dir():
            raise errors.must(f"the folder of {folder}", "exist", "none", "make it first")
        folder.mkdir(exist_ok=True)
        path = folder / "run.json"
        if not path.exists():
            with written_whole(path) as beside:
                beside.write_text(json.dumps(about, sort_keys=True, indent=1) + "\n", "utf-8")
        _check_same(path, json.loads(text))
        (folder / "shards").mkdir(exist_ok=True)
        return cls(folder, hashlib.sha256(text.encode()).hexdigest())

    def path(self, shard: int) -> Path:
        """Name the file of a shard."""
        return self.folder / "shards" / f"{shard:06d}.npz"

    def has(self, shard: int) -> bool:
        """Say whether the file of a shard is there, whole, and of this run."""
        return self._read(shard) is not None

    def read(self, shard: int) -> dict[str, NDArray[Any]]:
        """Read the result of a finished shard.

        Raises:
            AttendriteError: Something changed the file since it was finished.
        """
        found = self._read(shard)
        if found is None:
            raise errors.must(
                str(self.path(shard)),
                "stay as it was written",
                "something else",
                "start again: it is then computed anew",
            )
        return found

    def _read(self, shard: int) -> dict[str, NDArray[Any]] | None:
        path = self.path(shard)
        if not path.exists():
            return None
        try:
            # Opened here, since numpy leaves a damaged archive open.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if str(file["identity"]) != self.digest or int(file["shard"]) != shard:
                    return None
                names = [name for name in file.files if name.startswith(RESULT)]
                return {name.removeprefix(RESULT): file[name] for name in names}
        except Exception:  # damage has no one kind of error; the archive's checksums find it
            return None

    def write(self, shard: int, result: Result) -> None:
        """Write the result of a shard, whole or not at all; equal results give equal bytes.

        Raises:
            AttendriteError: An array holds Python objects.
        """
        arrays = {name: np.asarray(result[name]) for name in sorted(result)}
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise errors.must(f"{name} of shard {shard}", "hold plain data", array.dtype)
        about = {"identity": np.array(self.digest), "shard": np.array(shard)}
        write_npz(self.path(shard), about | {RESULT + name: a for name, a in arrays.items()})

    def await_file(self, shard: int) -> None:
        """Wait until a file that a worker has written is seen here.

        Raises:
            AttendriteError: It is not, after as long as a network file system may take.
        """
        until = time.monotonic() + NFS_PATIENCE_S
        while not self.path(shard).exists():
            list((self.folder / "shards").iterdir())  # makes NFS look again
            if time.monotonic() > until:
                raise errors.must(
                    str(self.path(shard)),
                    "be seen here when a worker has written it",
                    "no such file",
                    "choose a folder that all workers share",
                )
            time.sleep(0.1)


def _check_same(path: Path, about: dict[str, Any]) -> None:
    try:
        there = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise errors.must(str(path), "be JSON", str(error), ANOTHER) from None
    if there != about:
        key, was, now = _difference(there, about)
        raise errors.must(f"{key} of the run in {path.parent}", f"be {was}", now, ANOTHER)


def _difference(there: Any, here: Any, key: str = "") -> tuple[str, str, str]:
    """Name the first key whose values differ, and show both."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            if name not in there or name not in here or there[name] != here[name]:
                inner = "" if name == "identity" and not key else f"{key}.{name}".lstrip(".")
                return _difference(there.get(name), here.get(name), inner)
    return key or "all", reprlib.repr(there), reprlib.repr(here)
