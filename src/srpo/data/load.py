"""From a name, a path or arrays to a `Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data import ends, precision, ranges, sources
from srpo.data.checks import FIELDS, LARGEST, REQUIRED, DataError, check_arrays, check_env_id
from srpo.data.mapped import pieces
from srpo.data.ranges import Asked
from srpo.data.recording import Dataset
from srpo.data.reference import MEASURED_IN, Environment, environment, recognized
from srpo.data.sources import Attributes, d4rl
from srpo.text import NAME, encodable, plain
from srpo.worlds.environments import MissingEnvironment, bounds_of, make_env

Reward = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]  # of obs (N, obs), action (N, act), next_obs (N, obs)


def load_dataset(
    source: str | Path, *, env_id: str | None = None, action_range: Asked = None, reward: Reward | None = None
) -> Dataset:
    """The data set that `source` names. Raises DataError.

    `source` is a built-in name, the path of an .hdf5 or .npz file in D4RL's layout, a D4RL id such as
    hopper-medium-v2 (downloaded if it is not there yet), a name of `srpo data make`, `minari:` and an id of Minari, a table
    with its columns (`srpo.data.sources.spec`), a folder of LeRobot, or a file of robomimic or d3rlpy.
    env_id: the environment that was recorded, if it is not the one that the data name. action_range: the recorded actions
    that training sees as -1 and 1, (low, high) as numbers or per column, "env" for the environment's bounds, "recorded" for
    what the recording states, else its smallest and largest; policies act in recorded units. reward: computes rewards (N,)
    from obs, action and next_obs, in recorded units and read-only; the next observation of an episode's last row, where none
    was recorded, is its own. Runs remember the function's name, such as "rewards:energy", as a part of which data these are.
    """
    fields, attributes = sources.read(str(source))
    if reward is not None:
        attributes = _rewarded(attributes, "reward" in fields, place_of(reward))
        fields = {key: x for key, x in fields.items() if key != "reward"}
    if env_id is not None:
        attributes = attributes._replace(env_id=env_id)
    return build(fields, attributes, FIELDS, action_range, reward)


def from_arrays(
    obs,
    action,
    reward,
    terminal,
    timeout=None,
    next_obs=None,
    env_id: str | None = None,
    name: str = "arrays",
    *,
    action_range: Asked = None,
) -> Dataset:
    """A data set from arrays in memory: (N, obs), (N, act), (N,), (N,), (N,), (N, obs). Raises DataError.

    The arrays are copied. `action_range` as in `load_dataset`.
    """
    found = dict(obs=obs, action=action, reward=reward, terminal=terminal, timeout=timeout, next_obs=next_obs)
    if missing := [key for key in REQUIRED if found[key] is None]:
        raise DataError(f"{name}: {missing[0]} is None, expected an array with a row for each step; give it")
    owned = {key: _copied(x) for key, x in found.items() if x is not None}
    return build(owned, Attributes(name, "arrays", env_id), {key: key for key in FIELDS}, action_range)


def _copied(x: Any) -> Any:
    """An array of one's own, whatever holds the numbers; what cannot be one array is left for the checks to name."""
    try:
        return np.asanyarray(x).copy()  # a masked one stays masked
    except ValueError:
        return x


def place_of(reward: Reward) -> str:
    """module:function of a function, as `--reward` names it."""
    kind = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{kind.__module__}:{kind.__qualname__}"


def _rewarded(about: Attributes, recorded: bool, place: str) -> Attributes:
    """What is known of a recording whose rewards a function computes; in the place of recorded ones, they are other data."""
    told = about._replace(reward=about.reward or place)
    if not recorded or about.sha256 is None:
        return told
    return told._replace(sha256=hashlib.sha256(f"{about.sha256} {place}".encode()).hexdigest())


def _computed(fields: Mapping[str, np.ndarray], about: Attributes, reward: Reward | None) -> np.ndarray:
    """Rewards (N,) by a function of the checked obs, action and next_obs. Raises DataError if there is none or it cannot be used."""
    if reward is None:
        named = (
            f"compute it again with --reward {about.reward}"
            if about.reward
            else "name its column, or a function: --reward module:function"
        )
        raise DataError(f"{about.source.partition('?')[0]}: no reward is recorded; {named}")
    obs, end = fields["obs"], fields["terminal"] | fields["timeout"]
    following = fields.get("next_obs")
    if following is None:
        rows = np.arange(1, len(obs) + 1)
        following = obs[np.where(end | (rows == len(obs)), rows - 1, rows)]
    try:
        found = np.asarray(reward(*map(_read_only, (obs, fields["action"], following))), np.float64)
    except Exception as e:  # anything may go wrong in another's function
        raise DataError(
            f"{about.source.partition('?')[0]}: the reward function failed ({type(e).__name__}: {plain(e, 120)}); mend it"
        ) from e
    if found.shape != (len(obs),) or not (np.abs(found) <= LARGEST).all():
        large = f"numbers that are not finite, or beyond {LARGEST:g}"
        what = f"an array of shape {found.shape}" if found.shape != (len(obs),) else large
        raise DataError(
            f"{about.source.partition('?')[0]}: the reward function gave {what}, expected ({len(obs)},) finite numbers from "
            f"obs {obs.shape}, action and next_obs of all rows"
        )
    return found


def _read_only(array: np.ndarray) -> np.ndarray:
    """For another's function: what was checked stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


def build(
    found: Mapping[str, Any],
    about: Attributes,
    names: Mapping[str, str] = FIELDS,
    asked: Asked = None,
    reward: Reward | None = None,
) -> Dataset:
    """The data set of unchecked arrays by our names, which the user knows by `names`; `reward` computes what was not recorded.

    Raises DataError.
    """
    check_env_id(about.env_id, about.source)
    about = about._replace(name=plain(about.name, NAME))
    place = about.source if names is FIELDS else about.name
    fields = check_arrays(found, place, names)
    sizes = fields["obs"].shape[1], fields["action"].shape[1]
    known = recognized(about.name, about.env_id, sizes, about.d4rl)
    by_d4rl, where = about.d4rl and known is not None, f"{place}: {names['action']}"
    fields, timeouts_from, notes = _with_timeouts(fields, about, known)
    if "reward" not in fields:
        fields["reward"] = _computed(fields, about, reward)
    if not by_d4rl:
        fields, said = ends.reconciled(fields)
        notes += said
    chosen, said = _range(fields["action"], asked, about, by_d4rl, where)
    notes += said
    fields["action"] = ranges.to_unit(fields["action"], chosen)
    fields["reward"], said = precision.rewards(fields["reward"])
    offset, notes = _center(fields, about.obs_offset, by_d4rl, notes + said)
    sha256 = about.sha256 or _array_hash(
        fields if timeouts_from != "none" else {k: x for k, x in fields.items() if k != "timeout"}
    )
    return Dataset(
        name=about.name,
        **fields,
        env_id=about.env_id or (known.env_id if known else None),
        reference=about.reference or ((known.random, known.expert) if known else None),
        source=about.source,
        sha256=sha256,
        timeouts_from=timeouts_from,
        task=about.name if known and environment(about.name) in (known, None) else None,
        d4rl=by_d4rl,
        action_range=chosen,
        obs_offset=offset,
        notes=(*about.notes, *notes),
        labels=_labels(about),
        reward_by=about.reward,
    )


def _labels(about: Attributes):
    """The names of the columns, as a file can hold them."""
    if about.labels is None:
        return None
    obs, action = (tuple(map(encodable, names)) for names in about.labels)
    return obs, action


def _with_timeouts(fields: dict[str, np.ndarray], about: Attributes, known: Environment | None):
    """The fields with time-outs, where they are from, and what to say."""
    if "timeout" in fields:
        return fields, "recorded", []
    found, notes = ends.from_another_name(fields["terminal"], dict(about.others))
    if found is None and known is None:
        found, notes = ends.from_next_observations(fields)
    if found is not None:
        return fields | {"timeout": found}, "recorded", notes
    if known:
        return fields | {"timeout": d4rl.counted_timeouts(fields["terminal"], known.max_steps)}, "counted", []
    return fields | {"timeout": np.zeros(len(fields["terminal"]), bool)}, "none", []


def _range(action, asked: Asked, about: Attributes, by_d4rl: bool, where: str):
    """The range of the actions, None for [-1, 1], and what to say."""
    told = ranges.read_range(asked, action.shape[1], where)
    if by_d4rl and told is None:
        told = ranges.read_range((-1, 1), action.shape[1], where)
    stated = None
    if about.action_range is not None and not isinstance(told, tuple):
        low, high, origin = about.action_range
        bounds = ranges.read_range((low, high), action.shape[1], f"{where} ({origin})")
        if isinstance(bounds, tuple):
            stated = ranges.made(bounds, origin, where)
    asking = told is None and stated is None
    env = None
    if asking and about.env_id in MEASURED_IN:
        env = about.env_id, (-np.ones(action.shape[1]), np.ones(action.shape[1]))  # known, so not made
    elif asking or (isinstance(told, str) and told == "env"):
        env = _bounds(about.env_id, action.shape[1])
    return ranges.choose(action, told, stated, env, where)


def _bounds(env_id: str | None, size: int):
    """An environment's id and the bounds of its actions, if it is here and they are (size,) numbers that are bounds."""
    if env_id is None:
        return None
    try:
        env = make_env(env_id)
    except MissingEnvironment:
        return None  # training says so, if it is to be evaluated there
    found = bounds_of(getattr(env, "action_space", None))
    env.close()
    return None if found is None or found[0].shape != (size,) else (env_id, found)


def _center(fields: dict[str, np.ndarray], stated: np.ndarray | None, by_d4rl: bool, notes: list[str]):
    """Observations as float32, less an offset where it is large, or `stated`; the offset, and what to say."""
    if by_d4rl:
        for key in ("obs", "next_obs"):
            if key in fields:
                fields[key] = precision.float32(fields[key])
        return None, notes
    obs, next_obs, offset, said = precision.centered(fields["obs"], fields.get("next_obs"), stated)
    fields["obs"] = obs
    if next_obs is not None:
        fields["next_obs"] = next_obs
    return offset, notes + said


def _array_hash(fields: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(fields):
        digest.update(key.encode())
        for _, (piece,) in pieces(fields[key]):
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()
