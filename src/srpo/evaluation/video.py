"""A film of one episode, rendered without a screen."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srpo.errors import UserError
from srpo.evaluation.scores import FIRST_SEED, environment_of
from srpo.runs.run import Run
from srpo.system.files import unfinished
from srpo.system.surroundings import in_float32
from srpo.worlds.environments import make_env, scale_action

FPS_LIMIT = 60


class VideoError(UserError):
    """A film that cannot be made here."""


def _follow(env) -> None:
    """Film with the model's own camera that follows the robot; Gymnasium's default one may stand still."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco

        renderer.camera_id = mujoco.mj_name2id(
            env.unwrapped.model, mujoco.mjtObj.mjOBJ_CAMERA, "track"
        )  # -1, the default: none


@in_float32
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


def record(
    run: Run, path: Path, seed: int | None = None, env_id: str | None = None, step: int | None = None, frames: int = 1000
) -> Path:
    """Write an mp4 of one episode of a policy (of the first seed and point unless told; the last, or one kept at `step`).

    Needs the extra `video`.

    Raises VideoError if imageio or an off-screen OpenGL (EGL, OSMesa) is missing.
    """
    if sys.platform == "linux":  # elsewhere MuJoCo's own choice (CGL, WGL) draws without a screen
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import imageio.v2 as imageio
    except ImportError as e:
        raise VideoError("films need imageio with ffmpeg: pip install 'srpo[video]'") from e
    point: dict[str, Any] = dict(run.points[0])
    policy = run.policy(run.seeds[0] if seed is None else seed, step, **point)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(_filmed(environment_of(run, env_id))) as env, unfinished(path) as part:
            fps = min(env.metadata.get("render_fps", FPS_LIMIT), FPS_LIMIT)
            with warnings.catch_warnings():  # ffmpeg's process is started by fork and replaced at once
                warnings.filterwarnings("ignore", r"os\.fork", RuntimeWarning)
                writer: Any = imageio.get_writer(part, fps=fps, macro_block_size=8)
                with writer as film:
                    for picture in _pictures(env, policy, run.units.action_range is not None, frames):
                        film.append_data(picture)
            os.replace(part, path)
    except OSError as e:
        raise VideoError(f"cannot write {path} ({e.strerror or e}); give another place") from e
    except (ImportError, RuntimeError, AttributeError) as e:
        raise VideoError(
            f"cannot render without a screen ({(str(e).splitlines() or [type(e).__name__])[0]}); install EGL or OSMesa, or set MUJOCO_GL"
        ) from e
    return path


def _pictures(env: Any, policy: Any, in_units: bool, frames: int) -> Iterator[np.ndarray]:
    """Of one episode, as far as so many frames; `in_units`: the policy acts in recorded units."""
    act = jax.jit(lambda obs, key: policy.act(obs, key))
    _follow(env)
    obs, _ = env.reset(seed=FIRST_SEED)
    for step in range(frames):
        yield env.render()
        action = np.asarray(act(obs.astype(np.float32), jax.random.key(step)))
        obs, _, terminated, truncated, _ = env.step(scale_action(env.action_space, action, in_units))
        if terminated or truncated:
            break
