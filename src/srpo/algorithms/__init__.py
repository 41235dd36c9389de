"""The algorithms by name. Each is imported when it is asked for.

Those of other packages come in three ways: `register` from Python, `package.module:Class` on the command line, and
entry points of the group `srpo.algorithms` of what is installed. Nothing is ever imported because a file names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from srpo.errors import ConfigError, closest
from srpo.system import surroundings

if TYPE_CHECKING:
    from srpo.core import Algorithm

CLASS = "package.module:Class"
ALGORITHMS = {
    "bc": "srpo.algorithms.bc:BC",
    "bc-gaussian": "srpo.algorithms.bc:GaussianBC",
    "bc-diffusion": "srpo.algorithms.bc_diffusion:DiffusionBC",
    "iql": "srpo.algorithms.iql:IQL",
    "td3-bc": "srpo.algorithms.td3_bc:TD3BC",
    "bear": "srpo.algorithms.bear:BEAR",
    "srpo": "srpo.algorithms.srpo:SRPO",
    "srpo-dial": "srpo.algorithms.srpo_dial:SRPODial",
    "idql": "srpo.algorithms.idql:IDQL",
    "sfbc": "srpo.algorithms.sfbc:SfBC",
    "qgpo": "srpo.algorithms.qgpo:QGPO",
    "diffuser": "srpo.algorithms.diffuser:Diffuser",
    "diffusion-ql": "srpo.algorithms.diffusion_ql:DiffusionQL",
    "dtql": "srpo.algorithms.dtql:DTQL",
    "dtql-kl": "srpo.algorithms.dtql_kl:DTQLKL",
    "fql": "srpo.algorithms.fql:FQL",
    "rebrac": "srpo.algorithms.rebrac:ReBRAC",
}
GROUP = "srpo.algorithms"  # of entry points
NAME = r"[a-z0-9][a-z0-9._-]*"  # under which an algorithm can be listed
registered: dict[str, type[Algorithm]] = {}


def register(name: str, cls: type[Algorithm]) -> None:
    """Lists an algorithm of another package under `name`, so that it can be configured, and its runs can be read.

    `name` is also that of a folder: lower-case letters, digits, dots and dashes. The same class again (such as a
    notebook's cell that ran twice) takes the place of the first. Raises ConfigError for a name that is taken, and for a
    class that is no algorithm or cannot be trained as it is.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"algorithm name {name!r}: expected lower-case letters, digits, dots and dashes, such as my-method")
    check(cls)
    taken = ALGORITHMS.get(name) or (name in registered and home(registered[name]))
    if taken and taken != home(cls):
        raise ConfigError(f"the name {name!r} is that of {taken}; register {home(cls)} under another one")
    registered[name] = cls


def check(cls: Any) -> None:
    """Raises ConfigError for what cannot be an algorithm: another class, a field without default, no stage, a need of no earlier
    stage, a policy of no stage, a preset of settings that it does not have."""
    from srpo.core import Algorithm

    if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
        raise ConfigError(f"{cls!r} is no algorithm; expected a subclass of srpo.Algorithm")
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ConfigError(f"{home(cls)} lacks {', '.join(lacking)}; write it")
    try:
        algorithm = cls.default()
    except TypeError as e:
        raise ConfigError(f"{home(cls)} cannot be made without arguments ({e}); give every field a default") from None
    stages = list(algorithm.stages)
    if not stages:
        raise ConfigError(f"{home(cls)} has no stage; give it one as a field, such as policy: MyPolicy = MyPolicy()")
    for i, (name, stage) in enumerate(algorithm.stages.items()):
        if missing := _strange(f"{home(cls)}: needs of stage {name}", stage.needs, stages[:i]):
            raise ConfigError(f"{home(cls)}: stage {name} needs {missing!r}, which is no stage before it")
    if missing := _strange(f"{home(cls)}: acts_with", cls.acts_with, stages):
        raise ConfigError(f"{home(cls)}: acts_with has {missing!r}, which is none of its stages {', '.join(stages)}")
    _check_presets(algorithm)


def _strange(what: str, names: Any, known: Sequence[str]) -> str | None:
    """The first of the names that is not known. Raises ConfigError for a text, which is a tuple of its letters to Python."""
    if isinstance(names, str):
        raise ConfigError(f"{what}: found the text {names!r}, expected a tuple of names, such as ({names!r},)")
    return next((name for name in names if name not in known), None)


def _check_presets(algorithm: Algorithm) -> None:
    """Raises ConfigError for presets that are no settings by pattern of data sets' names, whether or not a pattern matches any."""
    from srpo import config

    for preset, tasks in type(algorithm).presets.items():
        where = f"{home(type(algorithm))}: preset {preset!r}"
        for pattern, chosen in tasks.items():
            if not isinstance(chosen, Mapping):
                raise ConfigError(
                    f'{where}: found {chosen!r} for {pattern!r}, expected settings by pattern, such as {{"*": {{...}}}}'
                )
            try:
                config.assign_all(algorithm, chosen)
            except ConfigError as e:
                raise ConfigError(f"{where}, {pattern!r}: {e}") from None


def home(cls: type) -> str:
    """Where a class lives: module:name."""
    return f"{cls.__module__}:{cls.__qualname__}"


def importable(place: str) -> bool:
    """Whether `module:name` can be given to `--algo`: not a class of a script, or one made inside a function."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", place) is not None and not place.startswith("__main__:")


def names() -> list[str]:
    """Every name that `find` knows."""
    return list(dict.fromkeys([*ALGORITHMS, *registered, *_installed()]))


def installed(name: str) -> bool:
    """Whether a package that is installed has an algorithm of this name."""
    return name in _installed()


def _installed() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP) if point.name not in ALGORITHMS}


def find(name: str) -> type[Algorithm]:
    """The class of a listed, registered or installed algorithm. Raises ConfigError, naming the closest one, for an unknown name."""
    if name in ALGORITHMS:
        return surroundings.imported(ALGORITHMS[name], CLASS)
    if name not in registered:
        if name not in (installed := _installed()):
            raise ConfigError(closest(name, names(), "algorithm"))
        register(name, surroundings.imported(installed[name].value, CLASS))
    return registered[name]


def named(text: str) -> type[Algorithm]:
    """What a person asks for: a name, or `package.module:Class`, which is imported and then listed under that text.

    Never for a text that was read from a file. Modules are looked for as Python does, then in the working folder.
    """
    if ":" not in text:
        return find(text)
    cls = surroundings.named(text, CLASS)
    check(cls)
    registered[text] = cls
    return cls


def recorded(name: str, where: str | None) -> type[Algorithm]:
    """The class of a run that was trained by `name`, whose class lived at `where` if it was not of this package.

    Raises ConfigError, saying what to do, if it is not known here: what a file names is not imported.
    """
    for listed, cls in registered.items():
        if name == listed or where == home(cls):
            return cls
    if where is None or name in _installed():
        return find(name)
    known = f"add --algo {where}, or " if importable(where) else ""
    listed = name if re.fullmatch(NAME, name) else "my-name"
    raise ConfigError(
        f"it was trained by {name!r} of {where!r}, which is not of this package, and nothing is imported because a file "
        f"names it; {known}call srpo.register({listed!r}, ...) before"
    )


def name_of(algorithm: Algorithm) -> str:
    """The name under which the class of `algorithm` is listed. Raises ConfigError if it is not."""
    here = home(type(algorithm))
    places = ALGORITHMS | {name: home(cls) for name, cls in registered.items()}
    for name, place in places.items():
        if place == here:
            return name
    raise ConfigError(
        f"the algorithm {here} has no name, so that its runs could not be read; call srpo.register('my-name', it)"
    )


def origin(algorithm: Algorithm) -> dict[str, str]:
    """What `run.json` keeps for `recorded`: the name and, of another package's algorithm, the home of its class."""
    name = name_of(algorithm)
    return {"algorithm": name} if name in ALGORITHMS else {"algorithm": name, "class": home(type(algorithm))}
