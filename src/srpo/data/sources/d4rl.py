"""D4RL's data sets by id: where the file lies, or where to get it. The d4rl package is never imported.

Files, folders and ids are those of D4RL's `infos.py`. What is downloaded must have the size and the hash that are
published for it (`files/d4rl.tsv`); for six files (relocate, kitchen) none are, and the size is the one that the host states.
"""

from __future__ import annotations

import functools
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.files import read_file, read_recording
from srpo.data.sources.hashes import file_hash
from srpo.system.files import unfinished
from srpo.system.surroundings import expanded

HOSTS = (  # plain http where nothing else has it
    "https://rail.eecs.berkeley.edu/datasets/offline_rl/{folder}/{file}",
    "https://huggingface.co/datasets/imone/D4RL/resolve/main/{file}",
    "http://rail.eecs.berkeley.edu/datasets/offline_rl/{folder}/{file}",
)
CHECKSUMS = Path(__file__).parent.parent / "files" / "d4rl.tsv"
TIMEOUT = 30  # seconds without an answer
BLOCK = 1 << 20  # bytes


def _files() -> dict[str, tuple[str, str]]:
    """Id -> (folder on D4RL's host, file)."""
    files = {}
    for env in ("halfcheetah", "hopper", "walker2d", "ant"):
        for kind in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            for version in ("v1", "v2"):
                files[f"{env}-{kind}-{version}"] = f"gym_mujoco_{version}", f"{env}_{kind.replace('-', '_')}-{version}.hdf5"
            if kind != "full-replay":
                old = {"medium-replay": "mixed"}.get(kind, kind.replace("-", "_"))
                prefix = "walker" if (env, old) == ("walker2d", "mixed") else env
                files[f"{env}-{kind}-v0"] = "gym_mujoco", f"{prefix}_{old}.hdf5"
    mazes = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    tasks = {"umaze": ("", "-diverse"), "medium": ("-play", "-diverse"), "large": ("-play", "-diverse")}
    starts = {
        "": "multistart_False_multigoal_False",
        "-play": "multistart_True_multigoal_False",
        "-diverse": "multistart_True_multigoal_True",
    }
    for version, folder, end in (("v0", "ant_maze_new", "sparse"), ("v2", "ant_maze_v2", "sparse_fixed")):
        for maze, kinds in tasks.items():
            for kind in kinds:
                files[f"antmaze-{maze}{kind}-{version}"] = folder, f"Ant_maze_{mazes[maze]}_noisy_{starts[kind]}_{end}.hdf5"
    for env in ("pen", "hammer", "door", "relocate"):
        for kind in ("human", "cloned", "expert"):
            files[f"{env}-{kind}-v1"] = "hand_dapg_v1", f"{env}-{kind}-v1.hdf5"
    kitchen = {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }
    return files | {f"kitchen-{kind}-v0": ("kitchen", f"{file}-v0.hdf5") for kind, file in kitchen.items()}


FILES = _files()
IDS = {file: name for name, (_, file) in FILES.items()}  # to recognize a file that a path names


def matches(source: str) -> bool:
    """An id, or the path of a file that has the name of one of D4RL's."""
    return source in FILES or Path(source).name in IDS or (Path(source).suffix == ".hdf5" and Path(source).stem in FILES)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording of an id, downloaded if it is not here yet. Raises DataError."""
    path = expanded(source) or Path(source)
    fields, about = read_recording(*((find(source), source) if source in FILES else (path, IDS.get(path.name, path.stem))))
    return fields, about._replace(d4rl=about.env_id is None)  # D4RL's files name no environment: one that does is another's


def listing() -> list[dict[str, Any]]:
    places = {name: local(name) for name in FILES}
    return [
        {"name": name, "kind": "D4RL", "meaning": FILES[name][1], "path": path and str(path), "here": path is not None}
        for name, path in places.items()
    ]


def counted_timeouts(terminal: np.ndarray, max_steps: int) -> np.ndarray:
    """Time-outs as `d4rl.qlearning_dataset` counts them in files without the field.

    Its counter is one ahead in the episode after a terminal row; this is D4RL's rule, not a slip here.
    """
    timeout = np.zeros(len(terminal), bool)
    count = 0
    for row, ended in enumerate(terminal.tolist()):
        timeout[row] = count == max_steps - 1
        count = 0 if timeout[row] else 1 if ended else count + 1
    return timeout


def folders() -> list[Path]:
    """Where D4RL's files are looked for; a download goes to the first."""
    chosen = os.environ.get("D4RL_DATASET_DIR")
    return [path for p in (chosen, "~/.d4rl/datasets") if p and (path := expanded(p)) is not None]


def local(name: str) -> Path | None:
    """The file of the D4RL id `name`, or None if it is not here yet."""
    paths = (folder / file for folder in folders() for file in (FILES[name][1], f"{name}.hdf5"))
    return next((path for path in paths if os.path.isfile(path)), None)


def find(name: str) -> Path:
    """The file of the D4RL id `name`, downloaded if it is not here yet. Raises DataError."""
    if (found := local(name)) is not None:
        return found
    if not folders():
        raise DataError(f"{name}: there is no home folder to look for it; set D4RL_DATASET_DIR to the folder of D4RL's files")
    return download(name, folders()[0] / FILES[name][1])


def download(name: str, path: Path) -> Path:
    """Gets a D4RL file from the first host that has it: to a temporary name, checked, then renamed. Raises DataError."""
    folder, file = FILES[name]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{name}: the folder for its file cannot be made ({error}); set D4RL_DATASET_DIR to another one"
        ) from None
    failures = []
    for host in HOSTS:
        url = host.format(folder=folder, file=file)
        with unfinished(path) as part:
            try:
                _fetch(url, part, f"{name} from {url.split('/')[2]}")
                _require_published(part, file)
                read_file(part)
                os.replace(part, path)
                return path
            except (OSError, HTTPException, DataError) as error:
                reason = str(error).replace(f"{part}: ", "the file ")
                failures.append(f"{url}: {' '.join(reason.split())}")
    raise DataError(f"{name}: cannot be downloaded ({'; '.join(failures)}); get {file} elsewhere and put it at {path}")


@functools.cache
def checksums() -> dict[str, tuple[int, str]]:
    """File -> (bytes, SHA-256), of those for which both are published."""
    lines = (line.split("\t") for line in CHECKSUMS.read_text().splitlines() if not line.startswith("#"))
    return {file: (int(size), sha256) for file, size, sha256 in lines}


def _require_published(path: Path, file: str) -> None:
    """Raises DataError if what was downloaded is not the published file."""
    if file not in checksums():
        return
    size, sha256 = checksums()[file]
    if path.stat().st_size != size:
        raise DataError(f"{path}: has {path.stat().st_size} bytes, the published one {size}")
    if file_hash(path) != sha256:
        raise DataError(f"{path}: has another SHA-256 than the published one, {sha256[:12]}...")


def _fetch(url: str, path: Path, label: str) -> None:
    """Copies a URL to a file, with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        open(path, "wb") as file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        size = answer.headers.get("Content-Length")
        task = progress.add_task(label, total=int(size) if size else None)
        while block := answer.read(BLOCK):
            file.write(block)
            progress.advance(task, len(block))
        if size and file.tell() != int(size):
            raise OSError(f"broke off after {file.tell()} of {size} bytes")
        file.flush()
        os.fsync(file.fileno())
