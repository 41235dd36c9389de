"""Every form of one exported policy: the files that are there, the others made of the same weights.

C that was found is never compiled: it is written anew from the weights, which is the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srpo.deploy import ctarget
from srpo.deploy.bundle import Bundle
from srpo.deploy.contract import require_vouched
from srpo.deploy.formats import CONTRACT, FORMATS, SUFFIXES, onnx_module
from srpo.deploy.graph import DeployError
from srpo.deploy.runtime import Policy


class Sources:
    """`given`: an .onnx or .safetensors file, or a folder of an export; `made`: a folder for what is missing."""

    def __init__(self, given: Path, made: Path):
        """Raises DeployError unless one of the files can be read."""
        self.made = made
        places = (
            {name: given / form.file for name, form in FORMATS.items()}
            if given.is_dir()
            else {SUFFIXES.get(given.suffix.lower()): given}
        )
        if given.is_dir() and (given / CONTRACT).exists():
            require_vouched(given)
        self.found = {
            name: path for name, path in places.items() if name != "c" and path.exists()
        }  # no C that was found is run
        if not self.found.keys() & {"onnx", "numpy"}:
            found = "no such file" if not given.exists() else "no policy there"
            raise DeployError(
                f"{given}: {found}; give policy.onnx, policy.safetensors or a folder with one of them that `srpo export` wrote; "
                "policy.c alone does not tell its weights"
            )
        self.network = Policy(self.found["numpy"]).network if "numpy" in self.found else onnx_module().read(self.found["onnx"])

    def _file(self, form: str) -> Path:
        if form not in self.found:
            self.found[form] = self.made / FORMATS[form].file
            FORMATS[form].write(Bundle.bare(self.network), self.found[form])
        return self.found[form]

    def policy(self) -> Policy:
        return Policy(self._file("numpy"))

    def session(self) -> Any:
        onnx_file = onnx_module()
        onnx_file.read(self._file("onnx"))  # refuses what is not ours before it is run
        return onnx_file.session(self._file("onnx"))

    def compiled(self) -> dict[str, ctarget.CompiledPolicy]:
        builds = ctarget.builds()  # before the file is written: there may be no compiler
        return {name: ctarget.CompiledPolicy(self._file("c"), flags) for name, flags in builds.items()}
