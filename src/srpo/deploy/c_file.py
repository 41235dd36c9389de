"""policy.c: one C99 file (also C++), weights inside, no allocation, nothing but libm; and policy_check.c, which tests it.

Weights lie in columns of `block` outputs, input after input, so that the innermost loop has constant length and runs
in registers: gcc and clang turn it into vector instructions without reordering any sum.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srpo.deploy import graph
from srpo.deploy.bundle import Bundle
from srpo.deploy.graph import Network
from srpo.deploy.safety import Support

WIDEST = 128  # outputs that are summed together; measured: docs/deployment.md
TEMPLATES = Path(__file__).with_name("c")

ACTIVATION = {
    "relu": "x[i] < 0.0f ? 0.0f : x[i]",  # lets NaN through
    "tanh": "tanhf(x[i])",
    "mish": "policy_mish(x[i])",
    "gelu": "policy_gelu(x[i])",
}
MISH = """
static float policy_mish(float x)
{
    const float e = expf(x < 20.0f ? x : 20.0f), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}
"""
GELU = """
static float policy_gelu(float x)
{
    return x * 0.5f * (1.0f + tanhf(@A@ * (x + @B@ * x * x * x)));
}
""".replace("@A@", f"{graph.GELU[0] / 2:.9g}f").replace("@B@", f"{graph.GELU[1]:.9g}f")
OWN = {"mish": MISH, "gelu": GELU}  # functions that C's library lacks
SQUASH = {"tanh": "tanhf(out[i])", "clip": "out[i]"}  # what is clipped, the bounds below clip
ACT, ACT_AT = (
    "void policy_act(const float obs[], float action[])",
    "void policy_act_at(const float obs[], float beta, float action[])",
)
AT_DEFAULT = """
void policy_act(const float obs[], float action[]) { policy_act_at(obs, policy_dial[2], action); }
"""
ABOUT_DIAL = """ *
 * void policy_act_at(const float obs[{obs}], float beta, float action[{act}]);
 *     The same at a temperature from {low:.3g} to {high:.3g}; larger: closer to argmax Q, smaller: closer to the behavior's
 *     mode; beyond the range the nearest end acts. Zero and below give NaN or the lower end. policy_act takes {default:.3g}.
"""
ACTIVATE = """
static void policy_activate(float *x, int n)
{
    int i;
    for (i = 0; i < n; i++) x[i] = @VALUE@;
}
"""


def array(name: str, values: np.ndarray, kind: str = "static POLICY_ALIGN const float") -> str:
    """A C array of the shortest decimal numbers that give back every float32 bit for bit."""
    text = [np.format_float_scientific(v, unique=True) + "f" for v in np.asarray(values, np.float32).ravel()]
    lines = (", ".join(text[i : i + 8]) for i in range(0, len(text), 8))
    return f"{kind} {name}[{len(text)}] = {{\n" + ",\n".join(lines) + "\n};\n"


def block(n_out: int) -> int:
    """How many outputs are summed together."""
    return min(WIDEST, max(4, 1 << (n_out - 1).bit_length()))


def padded(n_out: int) -> int:
    return -(-n_out // block(n_out)) * block(n_out)


def columns(weight: np.ndarray) -> np.ndarray:
    """(in, out) as (columns, in, block), padded with zeros."""
    n_in, n_out = weight.shape
    full = np.pad(weight, ((0, 0), (0, padded(n_out) - n_out)))
    return full.reshape(n_in, -1, block(n_out)).transpose(1, 0, 2)


def write(bundle: Bundle, path: Path) -> None:
    """policy.c from the template, the arrays and one line per step of the network."""
    network = bundle.network
    blocks = sorted({block(bias.size) for _, bias in network.layers})
    dial = network.dial is not None
    functions = OWN.get(network.activation, "") + "".join(f"POLICY_DENSE({n})\n" for n in blocks)
    if network.hidden:
        functions += ACTIVATE.replace("@VALUE@", ACTIVATION[network.activation])
    if dial:
        functions += _fill("policy_dial.c", {"ARRAY": array("policy_dial", network.known_dial, "static const float")})
    parts = {
        "OBS": str(network.obs_size),
        "ACT": str(network.action_size),
        "WIDTH": str(max(network.layers[0][0].shape[0], *(padded(bias.size) for _, bias in network.layers))),
        "ABOUT_DIAL": _about_dial(network) if dial else "",
        "DECLARED": f"{ACT_AT};\n" if dial else "",
        "SIGNATURE": ACT_AT if dial else ACT,
        "AT_DEFAULT": AT_DEFAULT if dial else "",
        "ARRAYS": _arrays(network),
        "FUNCTIONS": functions,
        "STEPS": "\n".join(f"    {line}" for line in _steps(network)),
        "SQUASH": SQUASH[network.squash],
        "BOUND": "policy_low[i] + (y + 1.0f) * policy_half[i]" if network.rescales else "y",
        "FAR": _far(bundle.support),
    }
    path.write_text(_fill("policy.c", parts))


def write_check(bundle: Bundle, path: Path) -> None:
    """policy_check.c: compares policy.c with recorded actions on the target itself."""
    rows, action = bundle.golden
    (obs, beta), sizes = bundle.network.split(rows), (bundle.network.obs_size, bundle.network.action_size)
    values = {"obs": obs, "expected": action, "half": bundle.network.half}
    values |= {} if beta is None else {"beta": beta}
    arrays = "".join(array(name, value, "static const float") for name, value in values.items())
    call = "policy_act(obs + i * {}, action)" if beta is None else "policy_act_at(obs + i * {}, beta[i], action)"
    parts = {"N": str(len(obs)), "ACT": str(sizes[1]), "ARRAYS": arrays, "CALL": call.format(sizes[0]), "OBS": str(sizes[0])}
    parts["SIGNATURE"] = ACT if beta is None else ACT_AT
    parts["TOLERANCE"] = f"{bundle.network.tolerance(rows):.3g}f"
    path.write_text(_fill("policy_check.c", parts))


def _fill(template: str, parts: dict[str, str]) -> str:
    text = (TEMPLATES / template).read_text()
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _arrays(network: Network) -> str:
    out = [array("policy_low", network.low), array("policy_high", network.high)]
    if network.normalizes:
        out += [array("policy_mean", network.mean), array("policy_std", network.std)]
    if network.rescales:
        out.append(array("policy_half", network.half))
    for i, (weight, bias) in enumerate(network.layers):
        out += [array(f"policy_w{i}", columns(weight)), array(f"policy_b{i}", np.pad(bias, (0, padded(bias.size) - bias.size)))]
    return "\n".join(out)


def _steps(network: Network):
    yield "for (i = 0; i < POLICY_OBS; i++) a[i] = " + (
        "(obs[i] - policy_mean[i]) / policy_std[i];" if network.normalizes else "obs[i];"
    )
    if network.dial is not None:
        yield "a[POLICY_OBS] = policy_turn(beta);"
    n_in, here, there = network.layers[0][0].shape[0], "a", "b"
    for i, (_, bias) in enumerate(network.layers):
        yield f"policy_dense{block(bias.size)}(policy_w{i}, policy_b{i}, {n_in}, {padded(bias.size)}, {here}, {there});"
        if i + 1 < len(network.layers):
            yield f"policy_activate({there}, {bias.size});"
        n_in, here, there = bias.size, there, here
    yield f"out = {here};"


def _far(support: Support | None) -> str:
    if support is None:
        return ""
    arrays = "\n".join(array(f"policy_data_{name}", getattr(support, name)) for name in ("mean", "whiten", "low", "high"))
    limit = np.format_float_scientific(np.float32(support.limit), unique=True)
    return _fill("policy_far.c", {"ARRAYS": arrays, "LIMIT": f"{limit}f"})


def _about_dial(network: Network) -> str:
    low, high = network.beta_range
    return ABOUT_DIAL.format(
        obs=network.obs_size, act=network.action_size, low=low, high=high, default=float(network.known_dial[2])
    )
