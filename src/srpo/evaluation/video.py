"""A film of one episode, rendered without a screen."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srpo.errors import UserError
from srpo.evaluation.rollouts import FIRST_SEED, act, place, seen
from srpo.evaluation.scores import environment_of
from srpo.runs.run import Run
from srpo.runs.units import Units
from srpo.system.files import unfinished
from srpo.system.surroundings import in_float32
from srpo.worlds.environments import answering, make_env, scale_action

FPS_LIMIT = 60
ENDINGS = (".mp4", ".mkv", ".mov", ".avi", ".gif")  # of others some are written in silence, and cannot be shown


class VideoError(UserError):
    """A film that cannot be made here."""


def _follow(env) -> None:
    """Film with the model's own camera that follows the robot; Gymnasium's default one may stand still."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco

        renderer.camera_id = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")  # -1, the default: none


def _filmed(env_id: str):
    """The environment, making pictures of itself. Raises VideoError if it has none, MissingEnvironment."""
    env = make_env(env_id)
    modes = env.metadata.get("render_modes") or []
    env.close()
    if "rgb_array" not in modes:
        raise VideoError(
            f"{env_id} renders no pictures (render modes: {', '.join(map(str, modes)) or 'none'}; needed: rgb_array); "
            "evaluate it without --video"
        )
    return make_env(env_id, render_mode="rgb_array")


@in_float32
def record(
    run: Run, path: Path, seed: int | None = None, env_id: str | None = None, step: int | None = None, frames: int = 1000
) -> Path:
    """Write a film of the first episode of an evaluation, of one policy (of the first seed and point unless told; the last, or
    one kept at `step`). Needs the extra `video`.

    Raises VideoError if imageio or an off-screen OpenGL (EGL, OSMesa) is missing, and for a name that is no film's; then
    nothing is written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise VideoError(f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(ENDINGS)}; name the film so")
    if sys.platform == "linux":  # elsewhere MuJoCo's own choice (CGL, WGL) draws without a screen
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import imageio.v2 as imageio
    except ImportError as e:
        raise VideoError("films need imageio with ffmpeg: pip install 'srpo[video]'") from e
    point: dict[str, Any] = dict(run.points[0])
    policy = run.units.centered(run.policy(run.seeds[0] if seed is None else seed, step, **point))
    try:
        with contextlib.closing(_filmed(environment_of(run, env_id))) as env:
            pictures = _pictures(env, policy, run.units, frames)
            first = next(pictures)  # where there is none, no folder is made
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished(path) as part:
                writer = partial(imageio.get_writer, part, fps=min(env.metadata.get("render_fps", FPS_LIMIT), FPS_LIMIT))
                _write(writer, itertools.chain([first], pictures))
                os.replace(part, path)
    except OSError as e:
        raise VideoError(f"cannot write {path} ({e.strerror or e}); give another place") from e
    except (ImportError, RuntimeError, AttributeError) as e:
        raise VideoError(
            f"cannot render without a screen ({(str(e).splitlines() or [type(e).__name__])[0]}); install EGL or OSMesa, or set MUJOCO_GL"
        ) from e
    return path


def _write(writer: Callable[..., Any], pictures: Iterator[np.ndarray]) -> None:
    with warnings.catch_warnings():  # ffmpeg's process is started by fork and replaced at once
        warnings.filterwarnings("ignore", r"os\.fork", RuntimeWarning)
        with contextlib.closing(writer(macro_block_size=8)) as film:  # by itself it stays open where a picture fails
            for picture in pictures:
                film.append_data(picture)


def _pictures(env: Any, policy: Any, units: Units, frames: int) -> Iterator[np.ndarray]:
    """Of the first episode of an evaluation, as far as so many frames; `policy` is one of `Units.centered`."""
    acts, shape, offset, step = jax.jit(act), env.observation_space.shape, units.exact_offset, 0

    def when() -> str:
        return f"at {place(step, 0)}"

    _follow(env)
    with answering(env.spec.id, when):
        obs = seen(env.reset(seed=FIRST_SEED)[0], shape, offset)
    for step in range(frames):
        yield env.render()
        action = np.asarray(acts(policy, obs.astype(np.float32)[None], np.uint32(0), np.uint32(step)))[0]
        action = scale_action(env.action_space, action, units.action_range is not None)
        with answering(env.spec.id, when):
            found, _, terminated, truncated, _ = env.step(action)
            obs = seen(found, shape, offset)
        if terminated or truncated:
            break
