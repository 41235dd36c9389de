"""The ant of D4RL's ant sets: Ant-v4, with contact forces that are always zero."""

import gymnasium
import numpy as np

from srpo.data.load import build
from srpo.data.sources import Attributes
from srpo.worlds.environments import check_environment, make_env, quiet_construction


def data_named(name):
    rng, n = np.random.default_rng(0), 20
    fields = {"obs": rng.normal(size=(n, 111)), "action": rng.uniform(-1, 1, (n, 8)), "reward": np.zeros(n)}
    return build(
        fields | {"terminal": np.arange(n) == 9, "timeout": np.arange(n) == 19}, Attributes(name, "its file", d4rl=True)
    )


def test_d4rl_s_ant_sets_have_an_environment_and_d4rl_s_references():
    data = data_named("ant-medium-v2")
    assert (data.env_id, data.reference) == ("srpo/Ant-v0", (-325.6, 3879.7))
    check_environment(data)  # of its sizes


def test_it_is_ant_v4_but_for_zeros_where_contact_forces_would_be():
    ours = make_env("srpo/Ant-v0")
    with quiet_construction():
        theirs = gymnasium.make("Ant-v4", use_contact_forces=True)
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps == 1000
    (mine, _), (his, _) = ours.reset(seed=3), theirs.reset(seed=3)
    touched = 0.0
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 8)):
        mine, reward, over, _, _ = ours.step(action)
        his, _, theirs_over, _, info = theirs.step(action)
        np.testing.assert_array_equal(mine, np.concatenate([his[:27], np.zeros(84)]))
        assert over == theirs_over
        np.testing.assert_allclose(reward, info["forward_reward"] + 1 - 0.5 * np.sum(action**2))  # no cost of contacts
        touched = max(touched, np.abs(his[27:]).max())
        if over:
            break
    assert touched > 0  # so that it makes a difference
    ours.close(), theirs.close()
