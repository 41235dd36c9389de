"""A suite as a TOML file: which data, algorithms and seeds, with which settings and budget.

A file says

  title = "..."                     in a line, what it compares
  preset = "paper"                  of every algorithm, for the task of each data set
  precision = "float32"             of products and activations in training, or "bfloat16"
  algorithms = ["srpo", "iql"]      in the order of interest
  seeds = [0, 1, 2]
  episodes = 20                     per policy
  curve = 5                         policies kept at even intervals of the last stage, for learning curves; 1: only the last
  first = {algorithms = ["srpo"], data = ["NAME"]}      what is worked through before the rest

  [budget]
  iterations = 200_000              of every stage; left out: the preset's own steps
  batch_factor = 4                  divides batches that are larger than 256

  [[data]]
  name = "NAME"                     NAME.hdf5 in the data folder, or a name that `srpo train` knows
  task = "hopper-medium-v2"         whose published settings it gets; left out: those of its own name
  settings.srpo = {"policy.beta" = 0.05}      on these data, over all others

  [settings.iql]                    over the preset's and the budget's
  "critic.layer_init" = "torch"

  [variants.srpo-bold]              another recipe of an algorithm, beside it: "srpo-bold" is listed among `algorithms` as well
  algorithm = "srpo"                with all that the suite sets of it
  preset = "quick"                  left out: the suite's
  settings = {"policy.beta" = 0.5}  over all that the suite sets of its algorithm
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from srpo import algorithms
from srpo.config import whole
from srpo.data import Dataset, load_dataset
from srpo.errors import ConfigError, UserError, closest
from srpo.networks.precision import Precision
from srpo.runs.schema import EPISODES, KEPT
from srpo.suite.budget import Budget
from srpo.suite.schema import NAME, Data, File, First, Variant
from srpo.system.files import read_bytes
from srpo.text import plain

LARGEST = 1 << 20  # bytes of a suite's file


def require_name(name: str, what: str) -> None:
    """Raises ConfigError for what cannot be the name of a folder of results."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{what}: its results get a folder of this name; expected letters, digits, / and ._+=@:-")


@dataclass(frozen=True)
class Source:
    """A data set, the D4RL task whose published settings it gets, and settings of its own by algorithm."""

    name: str
    task: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        require_name(self.name, f"data set {self.name!r}")


class Recipe(NamedTuple):
    """How a name of a suite is trained on a data set. `settings`: what the suite sets, by path."""

    algorithm: str
    preset: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """`algorithms`: names of algorithms and of `variants`."""

    name: str
    title: str
    preset: str
    algorithms: tuple[str, ...]
    data: tuple[Source, ...]
    seeds: tuple[int, ...]
    episodes: int
    curve: int
    budget: Budget
    first: Mapping[str, Sequence[str]]
    settings: Mapping[str, Mapping[str, Any]]
    precision: Precision = "float32"
    variants: Mapping[str, Variant] = field(default_factory=dict)

    def __post_init__(self):
        for name, variant in self.variants.items():
            self._check_variant(name, variant)
        known = algorithms.names()
        for name in self.algorithms:
            if name not in (*self.variants, *known):
                raise ConfigError(closest(name, [*self.variants, *known], "algorithm"))
        trained = dict.fromkeys([*self.algorithms, *map(self.algorithm_of, self.algorithms)])
        for name in itertools.chain(self.settings, *(source.settings for source in self.data)):
            if name not in trained:
                raise ConfigError(f"suite {self.name}: settings of {closest(name, trained, 'algorithm')}")
        whole(self.episodes, f"episodes in suite {self.name}", most=EPISODES)
        whole(self.curve, f"policies for a curve in suite {self.name}", most=KEPT)
        names = [source.name for source in self.data]
        for what, found in (("algorithms", self.algorithms), ("data", names), ("seeds", self.seeds)):
            if not found or len(set(found)) < len(found):
                raise ConfigError(f"suite {self.name}: expected one or more different {what}, found {len(found)}")

    def chosen(
        self, data: Sequence[str] | None, names: Sequence[str] | None, seeds: Sequence[int] | None, iterations: int | None
    ) -> Suite:
        """The part of it with these data sets and algorithms, or with other seeds or iterations. Raises ConfigError."""
        known = {source.name: source for source in self.data}
        for name in data or ():
            if name not in known:
                raise ConfigError(f"suite {self.name}: {closest(name, known, 'data set')}")
        for name in names or ():
            if name not in self.algorithms:
                raise ConfigError(f"suite {self.name}: {closest(name, self.algorithms, 'algorithm')}")
        budget = self.budget if iterations is None else replace(self.budget, iterations=iterations)
        picked = tuple(names or self.algorithms)
        trained = {*picked, *map(self.algorithm_of, picked)}
        sources = tuple(known[n] for n in data) if data else self.data
        return replace(
            self,
            data=tuple(replace(s, settings={n: v for n, v in s.settings.items() if n in trained}) for s in sources),
            algorithms=picked,
            budget=budget,
            seeds=self.seeds if seeds is None else tuple(seeds),
            settings={n: v for n, v in self.settings.items() if n in trained},
            variants={n: v for n, v in self.variants.items() if n in picked},
        )

    @property
    def curve_episodes(self) -> int:
        """Of each policy before the last: a quarter, as a curve shows many."""
        return max(1, self.episodes // 4) if self.curve > 1 else 0

    def algorithm_of(self, name: str) -> str:
        """The algorithm behind a name in `algorithms`."""
        return self.variants[name].algorithm if name in self.variants else name

    def recipe(self, data: str, name: str) -> Recipe:
        """Of a name in `algorithms`, on a data set."""
        (source,) = (s for s in self.data if s.name == data)
        algorithm, preset, places = self.algorithm_of(name), self.preset, [self.settings, source.settings]
        settings = {path: value for each in places for path, value in each.get(algorithm, {}).items()}
        if name in self.variants:
            variant = self.variants[name]
            preset = variant.preset or preset
            for more in (variant.settings, *(each.get(name, {}) for each in places)):
                settings |= more
        return Recipe(algorithm, preset, settings)

    def rank(self, data: str, algorithm: str) -> tuple[int, ...]:
        """Smaller for what is more informative: what `first` names in both, then in one of them, then the rest."""
        names = [source.name for source in self.data]
        missed = (data not in self.first.get("data", names)) + (algorithm not in self.first.get("algorithms", self.algorithms))
        return missed, names.index(data), self.algorithms.index(algorithm)

    def _check_variant(self, name: str, variant: Variant) -> None:
        where = f"suite {self.name}, variants.{plain(name)}"
        require_name(name, where)
        if name in algorithms.names():
            raise ConfigError(f"{where}: {name} is an algorithm; give the variant another name")
        if name not in self.algorithms:
            raise ConfigError(f"{where} is not among the algorithms; add it there")
        try:
            presets = algorithms.find(variant.algorithm).presets
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}") from None
        if variant.preset is not None and variant.preset not in presets:
            raise ConfigError(f"{where}: {closest(variant.preset, presets, 'preset')}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"variants": {name: msgspec.structs.asdict(each) for name, each in self.variants.items()}}


def shipped() -> dict[str, Path]:
    """The files of the suites that come with srpo, by name."""
    folder = Path(str(resources.files("srpo.suite") / "shipped"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(name: str) -> Suite:
    """The suite that comes with srpo under this name, or the one in a TOML file. Raises ConfigError."""
    path = shipped().get(name, Path(name))
    if path.suffix != ".toml":
        raise ConfigError(f"{closest(name, shipped(), 'suite')}; or give a .toml file")
    try:
        found = tomllib.loads(read_bytes(path, LARGEST).decode("utf-8-sig"))
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be read ({e.strerror}); give a .toml file, or one of {', '.join(shipped())}"
        ) from None
    except (ValueError, RecursionError) as e:  # also a number of too many digits, and tables in tables without end
        raise ConfigError(f"{path} is no TOML ({plain(e, 200)}); mend it") from None
    return read_suite(found, plain(path.stem, 200))


def load_data(name: str, folder: Path | None) -> Dataset:
    """A data set of a suite. Raises DataError, ConfigError that says which file goes where."""
    if folder is None:
        try:
            return load_dataset(name)
        except UserError as e:
            raise ConfigError(f"data set {name}: {e}; or put {name}.hdf5 into a folder and name it with --data-dir") from None
    if not (folder / f"{name}.hdf5").exists():
        raise ConfigError(f"{folder / name}.hdf5 is not there; put it there, or choose among the others with --data")
    return load_dataset(folder / f"{name}.hdf5")


def read_suite(found: Mapping[str, Any], name: str) -> Suite:
    """The suite in the contents of a TOML file. Raises ConfigError for what is missing, unknown or of another kind."""
    _known(name, found, File.__struct_fields__)
    data = found.get("data", [])
    for entry in data if isinstance(data, list) else []:
        _known(f"{name}, data", entry, Data.__struct_fields__)
    _known(f"{name}, budget", found.get("budget"), [f.name for f in fields(Budget)])
    _known(f"{name}, first", found.get("first"), First.__struct_fields__)
    variants = found.get("variants")
    for each, entry in variants.items() if isinstance(variants, dict) else ():
        _known(f"{name}, variants.{plain(each)}", entry, Variant.__struct_fields__)
    try:
        file = msgspec.convert(found, File)
    except msgspec.ValidationError as e:
        nested = "settings" in str(e) and "got `object`" in str(e)  # policy.beta without quotes is a table in a table
        todo = 'write the path of a setting in quotes, such as "policy.beta" = 0.1' if nested else "mend it"
        raise ConfigError(f"suite {name}: {plain(e)}; {todo}") from None
    first = {key: values for key, values in msgspec.structs.asdict(file.first).items() if values is not None}
    sources = tuple(Source(each.name, each.task or each.name, each.settings) for each in file.data)
    for what, known in (("algorithms", file.algorithms), ("data", [source.name for source in sources])):
        for wrong in set(first.get(what, ())) - set(known):
            raise ConfigError(f"suite {name}, first: {closest(wrong, known, 'name')}")
    rest = {key: getattr(file, key) for key in ("preset", "precision", "episodes", "curve", "budget", "settings", "variants")}
    return Suite(
        name,
        title=plain(file.title or name, 200),
        data=sources,
        algorithms=tuple(file.algorithms),
        seeds=tuple(file.seeds),
        first=first,
        **rest,
    )


def _known(where: str, found: Any, known: Sequence[str]) -> None:
    """Raises ConfigError for a field of a table that is not known, with the closest one that is."""
    for key in found if isinstance(found, dict) else ():
        if key not in known:
            raise ConfigError(f"suite {where}: {closest(key, known, 'field')}")
