"""The formats that a policy can be written in: its file, its writer, and what calls the file for verification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srpo.deploy import c_file, ctarget, numpy_file
from srpo.deploy.bundle import Bundle
from srpo.deploy.graph import DeployError
from srpo.deploy.runtime import Policy
from srpo.errors import closest

Act = Callable[[np.ndarray], np.ndarray]
CONTRACT = "contract.json"


def onnx_module():
    """`srpo.deploy.onnx_file`. Raises DeployError if the packages that it needs are not installed."""
    try:
        import onnxruntime  # noqa: F401

        from srpo.deploy import onnx_file
    except ImportError as e:
        raise DeployError(
            f"{e.name or 'onnx'} is not installed; pip install 'srpo[deploy]', or leave out the format onnx"
        ) from None
    return onnx_file


@dataclass(frozen=True)
class Format:
    file: str
    write: Callable[[Bundle, Path], None]
    load: Callable[[Path], dict[str, Act]]  # name of a build -> actions (B, act) of rows (B, ...), see `Network`


def _numpy_act(path: Path) -> Act:
    policy = Policy(path)
    return lambda rows: policy.act(*policy.network.split(rows))


FORMATS = {
    "onnx": Format(
        "policy.onnx", lambda bundle, path: onnx_module().write(bundle, path), lambda path: {"onnx": onnx_module().act(path)}
    ),
    "numpy": Format("policy.safetensors", numpy_file.write, lambda path: {"numpy": _numpy_act(path)}),
    "c": Format(
        "policy.c",
        c_file.write,
        lambda path: {name: ctarget.CompiledPolicy(path, f).act for name, f in ctarget.builds().items()},
    ),
}
SUFFIXES = {Path(form.file).suffix: name for name, form in FORMATS.items()}


def targets(to: str | Path, forms: Sequence[str] | None = None) -> dict[str, Path]:
    """Where each format goes, then the contract (key `CONTRACT`): one file, or a folder with all or the given formats.

    Raises DeployError for a format that is unknown or contradicts the file's name.
    """
    path = Path(to)
    if not str(to) or path.name.lower() in SUFFIXES:
        raise DeployError(f"found the target {str(to)!r}, expected a name, such as policy.onnx, or a folder")
    for name in forms or ():
        if name not in FORMATS:
            raise DeployError(closest(name, FORMATS, "format"))
    if path.is_dir() or str(to).endswith("/") or not path.suffix:
        return {name: path / FORMATS[name].file for name in forms or FORMATS} | {CONTRACT: path / CONTRACT}
    if path.suffix.lower() not in SUFFIXES:
        raise DeployError(f"{path}: {closest(path.suffix, SUFFIXES, 'format')}; or end the name of a folder with /, as {path}/")
    name = SUFFIXES[path.suffix.lower()]
    if forms and list(forms) != [name]:
        raise DeployError(
            f"{path} is one file of format {name}, but {', '.join(forms)} was asked for; give a folder for several"
        )
    return {name: path, CONTRACT: path.with_name(f"{path.name}.{CONTRACT}")}
