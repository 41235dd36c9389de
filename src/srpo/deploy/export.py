"""Export: describe the policy, write every file, verify each against the policy itself, and only then name them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data import DataError
from srpo.data.again import observed, recorded_source
from srpo.data.mapped import columns
from srpo.data.sources import elsewhere
from srpo.data.sources.builtin import BUILTIN
from srpo.deploy import c_file, contract
from srpo.deploy.bundle import Bundle
from srpo.deploy.describe import describe, notes, obs_size
from srpo.deploy.formats import CONTRACT, FORMATS, targets
from srpo.deploy.graph import DeployError, Network
from srpo.deploy.latency import measure
from srpo.deploy.safety import FEW, Support
from srpo.deploy.signals import signals
from srpo.deploy.verify import observations, parity, reference
from srpo.errors import ConfigError
from srpo.system.files import require_replaceable, unfinished
from srpo.system.surroundings import in_float32
from srpo.worlds.environments import MissingEnvironment

CHECK = "policy_check.c"
GOLDEN = 16
CALLS = 2000  # for the latency in the contract; `srpo bench` measures longer


@in_float32
def export_policy(
    policy: Any,
    to: str | Path,
    *,
    data: np.ndarray | None = None,
    formats: Sequence[str] | None = None,
    info: Mapping[str, Any] | None = None,
    force: bool = False,
    calls: int = CALLS,
) -> dict[str, Any]:
    """Write a policy as one file (.onnx, .safetensors, .c) or, into a folder, as all of them; return the contract.

    data: (N, obs) observations it was trained on, for verification and for the statistics that `SafePolicy` needs.
    info: origin, as `contract.about` gives it. calls: for the latency in the contract, 0 for none. Raises DeployError,
    before anything is named, for a policy without one network, an existing target without `force`, or a file that acts
    differently.
    """
    places = targets(to, formats)
    _refuse_existing(places, force)
    bundle, sets = _bundled(policy, data, info or {})
    with _workshop(places[CONTRACT].parent) as folder:
        written = _write(bundle, folder, places)
        forms = [name for name in places if name != CONTRACT]
        acts = {build: act for name in forms for build, act in FORMATS[name].load(written[name]).items()}
        errors = parity(acts, policy, bundle.network, sets)
        latency = _latency(bundle, folder, forms, calls) if calls else []
        whole = contract.complete(bundle, errors, latency, {places[name].name: written[name] for name in forms})
        written[CONTRACT] = folder / CONTRACT
        written[CONTRACT].write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
        _name(written, places)
    return whole


def _bundled(policy: Any, data: np.ndarray | None, info: Mapping[str, Any]) -> tuple[Bundle, dict[str, np.ndarray]]:
    """What the files say, and the observations that each is verified on."""
    data = None if data is None else _checked(data, obs_size(policy))
    deviation = deviation_of(info, data)
    probe = describe(policy, deviation=deviation)
    obs_signals, action_signals, low, high, about_signals = _environment(probe, info)
    told = [*info.get("notes", ()), *notes(policy), *about_signals]
    network = describe(policy, low, high, deviation)
    support = None if data is None else Support.of(data)
    if data is not None and len(data) < FEW:
        told.append(
            f"the limits of what is far are from {len(data)} rows: too few to promise one false alarm in a thousand observations"
        )
    sets = observations(network, data)
    golden = sets["in-distribution"][:GOLDEN]
    about = contract.static(network, support, {**info, "notes": told}, (obs_signals, action_signals))
    return Bundle(network, (golden, reference(policy, network, golden)), support, about), sets


def _checked(data: Any, size: int) -> np.ndarray:
    """Observations (N, obs) as floating-point numbers. Raises DeployError for what is none."""
    try:
        found = np.asarray(data)
    except ValueError:
        raise DeployError(f"data: found rows of different lengths, expected (N, {size}) observations") from None
    if found.dtype.kind not in "fiu" or found.ndim != 2 or found.shape[1] != size or not len(found):
        raise DeployError(
            f"data: found {found.dtype} of shape {found.shape}, expected numbers (N, {size}), one observation or more"
        )
    ends = found.min(0), found.max(0)
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(ends, np.float32)).all():
            raise DeployError("data: found observations that are not finite in float32, expected numbers; leave those rows out")
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def deviation_of(info: Mapping[str, Any], data: np.ndarray | None = None) -> np.ndarray | None:
    """How each column of the data varies (obs,): as its run knows, before float32 rounds it, else as the observations at hand do."""
    known = (info.get("data") or {}).get("obs_deviation")
    if known is not None:
        return np.asarray(known)
    return None if data is None else columns(data).std


def choose(
    run: Any, seed: int | None = None, point: Mapping[str, float] | None = None, step: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """The policy of a `srpo.Run` and its origin. Raises RunError, or ConfigError if a seed or point must be chosen.

    step: of an earlier policy that the run kept (`run.kept`).
    """
    if seed is None and len(run.seeds) > 1:
        raise ConfigError(
            f"{run.path} holds the seeds {', '.join(map(str, run.seeds))}; choose one, such as --seed {run.seeds[0]}"
        )
    point = dict(point or (run.points[0] if len(run.points) == 1 else ()))
    seed = run.seeds[0] if seed is None else seed
    step = run.kept[-1] if step is None else step
    policy = run.policy(seed, step, **point)
    return policy, contract.about(run, seed, point, step)


def export_run(
    run: Any,
    to: str | Path,
    *,
    seed: int | None = None,
    point: Mapping[str, float] | None = None,
    step: int | None = None,
    data: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`export_policy` for one policy of a `srpo.Run`, chosen as by `choose`; its data set is looked for where it was, or in `data`.

    Without the data, verification draws normal numbers, and the files hold no statistics for `SafePolicy`; a note in
    the contract says so. `options` go to `export_policy`. Raises DataError if `data` is another data set.
    """
    policy, info = choose(run, seed, point, step)
    obs, note = _observations(info["data"], data)
    return export_policy(policy, to, data=obs, info=info | {"notes": [note] if note else []}, **options)


def _observations(known: Mapping[str, Any], given: str | Path | None) -> tuple[np.ndarray | None, str | None]:
    """The observations of the data set that a run was trained on, never downloaded, or why they are not at hand."""
    if given is not None:
        dataset = observed(known, given)
        if dataset.sha256 != known["sha256"]:
            raise DataError(
                f"{given} is not the run's data set (sha256 {dataset.sha256[:12]}..., expected {known['sha256'][:12]}...)"
            )
        return dataset.recorded_obs, None
    source = recorded_source(known)
    if source == "arrays":
        return (
            None,
            "it was trained on arrays in memory, so there are no statistics of them; give observations to export_policy",
        )
    here = source in BUILTIN or any(os.path.exists(path) for path in (source, source.partition("?")[0]))
    if not here and elsewhere(source) is None:
        return (
            None,
            f"the data set {source} is not here, so there are no statistics of it; name it with --data, or what reads it with --source",
        )
    try:
        dataset = observed(known)
    except DataError as e:
        if here:
            raise
        return None, f"the data set {source} cannot be read, so there are no statistics of it: {e}"
    if dataset.sha256 != known["sha256"]:
        return None, f"{source} has changed since training, so its statistics were not used"
    return dataset.recorded_obs, None


def _environment(network: Network, info: Mapping[str, Any]):
    """Signals, bounds and notes, from the environment of the data where there is one that fits."""
    data = info.get("data") or {}
    sizes = network.obs_size, network.action_size
    try:
        return *signals(data.get("env_id"), *sizes, data.get("labels"), data.get("action_range") is not None), []
    except MissingEnvironment as e:
        units = "" if data.get("action_range") else ", so actions are in [-1, 1]"
        note = f"what {data['env_id']} says of signals is unknown{units}: {e}"
    return *signals(None, *sizes, data.get("labels")), [note]


def _possible(places: Mapping[str, Path]) -> set[Path]:
    """Every file that an export to these places could have left: in a folder, those of all formats."""
    home = places[CONTRACT].parent
    whole = places[CONTRACT].name == CONTRACT
    return {*places.values()} | ({home / form.file for form in FORMATS.values()} | {home / CHECK} if whole else set())


def _refuse_existing(places: Mapping[str, Path], force: bool) -> None:
    for path in sorted(_possible(places)):
        if path.is_dir():
            raise DeployError(f"{path} is a folder; give another name")
        try:
            require_replaceable(path)
        except OSError as e:
            raise DeployError(f"cannot write {path}: {e.strerror}") from None
        if path.exists() and not force:
            raise DeployError(f"{path} exists; give another name, or --force to replace it")


@contextlib.contextmanager
def _workshop(folder: Path):
    """A hidden folder on the same disk as `folder`, removed whatever happens."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    try:
        with unfinished(here / "srpo-export") as made:
            made.mkdir()
            yield made
    except OSError as e:
        raise DeployError(
            f"cannot write to {folder}: {e.strerror or e}; make room or give another folder, and export again"
        ) from e


def _write(bundle: Bundle, folder: Path, places: Mapping[str, Path]) -> dict[str, Path]:
    written = {}
    for name in places:
        if name != CONTRACT:
            written[name] = folder / FORMATS[name].file
            FORMATS[name].write(bundle, written[name])
    if "c" in written and places[CONTRACT].name == CONTRACT:
        written[CHECK] = folder / CHECK
        c_file.write_check(bundle, written[CHECK])
    return written


def _latency(bundle: Bundle, folder: Path, forms: Sequence[str], calls: int) -> list[dict[str, Any]]:
    """Of the files in `folder`; the weights of a lone policy.c are put beside it, as none can be read from C."""
    if list(forms) == ["c"]:
        FORMATS["numpy"].write(Bundle.bare(bundle.network), folder / FORMATS["numpy"].file)
    return measure(folder, calls, batches=(1,), forms=forms)


def _name(written: Mapping[str, Path], places: Mapping[str, Path]) -> None:
    """Give the files their names, the contract (with the hashes of the others) last; nothing of an earlier export stays beside them."""
    home = places[CONTRACT].parent
    home.mkdir(parents=True, exist_ok=True)
    named = {name: places.get(name, home / CHECK) for name in written}
    for name, path in written.items():
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        os.replace(path, named[name])
    for stale in _possible(places) - set(named.values()):
        stale.unlink(missing_ok=True)
