"""policy.onnx: `obs` float32 (batch, obs) -> `action` float32 (batch, act), opset 17, which onnxruntime and TensorRT read.

A policy with a dial has a second input, `beta` float32 (batch, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from srpo.deploy.bundle import Bundle
from srpo.deploy.graph import GELU, LAYER, DeployError, Network, every
from srpo.deploy.runtime import FORMAT, version
from srpo.errors import UserError
from srpo.system.files import read_bytes
from srpo.text import plain

OPSET, IR_VERSION = 17, 8
ABOUT = "Normalization, squashing and bounds are inside. Observations are not checked: refuse NaN and infinity before the call."


class _Graph:
    """Nodes in a row, each reading what the one before wrote."""

    def __init__(self, network: Network):
        self.nodes: list[onnx.NodeProto] = []
        self.value = "obs"
        self.arrays: dict[str, np.ndarray | np.floating] = dict(network.tensors())

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """`op` on the present value, unless the inputs say otherwise; its output becomes the present value."""
        name = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs or [self.value], [name], name=name, **attributes))
        self.value = name
        return name

    def activate(self, name: str) -> None:
        if name == "mish":  # the operator Mish came with opset 18
            x = self.value
            self.add("Softplus")
            self.add("Mul", x, self.add("Tanh"))
        elif name == "gelu":  # the operator Gelu came with opset 20
            x, (a, b) = self.value, GELU
            self.arrays |= {"gelu a": np.float32(a), "gelu b": np.float32(b)}
            cube = self.add("Mul", self.add("Mul", x, x), x)
            self.add("Add", x, self.add("Mul", cube, "gelu b"))
            self.add("Mul", self.value, "gelu a")
            self.add("Mul", x, self.add("Sigmoid"))
        else:
            self.add({"relu": "Relu", "tanh": "Tanh"}[name])


def write(bundle: Bundle, path: Path) -> None:
    """The network with normalization, squashing and bounds inside, checked by onnx's own checker."""
    onnx.save(_model(_graph(bundle.network), bundle), path)


def _graph(network: Network) -> _Graph:
    graph = _Graph(network)
    if network.normalizes:
        graph.add("Sub", graph.value, "mean")
        graph.add("Div", graph.value, "std")
    else:
        del graph.arrays["mean"], graph.arrays["std"]
    if network.dial is not None:
        _turn(graph, network)
    for i in range(len(network.layers)):
        graph.add("Gemm", graph.value, LAYER.format(i, "weight"), LAYER.format(i, "bias"))
        if i + 1 < len(network.layers):
            graph.activate(network.activation)
    if network.squash == "tanh":
        graph.add("Tanh")
    if network.rescales:
        graph.arrays |= {"one": np.float32(1), "half": network.half}
        graph.add("Add", graph.value, "one")
        graph.add("Mul", graph.value, "half")
        graph.add("Add", graph.value, "low")
    _bound(graph, network)
    return graph


def _turn(graph: _Graph, network: Network) -> None:
    """Puts log beta, scaled, behind the observation; `dial` stays in the file for `read`."""
    center, half, default = network.known_dial
    graph.arrays |= {"center": center, "half width": half, "default": default, "least": np.float32(-1), "most": np.float32(1)}
    del graph.arrays["dial"]
    obs = graph.value
    graph.add("Log", "beta")
    graph.add("Sub", graph.value, "center")
    graph.add("Div", graph.value, "half width")
    graph.add("Concat", obs, graph.add("Clip", graph.value, "least", "most"), axis=1)


def _bound(graph: _Graph, network: Network) -> None:
    """One operator where all actions have the same bounds: that is 0.9 us less in onnxruntime."""
    if np.ptp(network.low) == np.ptp(network.high) == 0:
        graph.arrays |= {"low": network.low[0], "high": network.high[0]}
        graph.add("Clip", graph.value, "low", "high", out="action")
    else:
        graph.add("Max", graph.value, "low")
        graph.add("Min", graph.value, "high", out="action")


def _model(graph: _Graph, bundle: Bundle) -> onnx.ModelProto:
    beta = {} if bundle.network.dial is None else {"beta": 1}
    obs, action = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size]) for name, size in sizes.items()]
        for sizes in ({"obs": bundle.network.obs_size, **beta}, {"action": bundle.network.action_size})
    )
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in graph.arrays.items()]
    made = helper.make_graph(graph.nodes, "policy", obs, action, arrays)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="srpo", doc_string=ABOUT
    )
    meta = {
        "format": FORMAT,
        "version": version(bundle.network),
        "activation": bundle.network.activation,
        "squash": bundle.network.squash,
        "contract": bundle.contract_text,
    }
    helper.set_model_props(model, meta)
    onnx.checker.check_model(model, full_check=True)
    return model


def read(path: Path) -> Network:
    """The network in a file that `write` made. Raises DeployError for any other file, also if its graph is another one."""
    try:
        model = onnx.load_model_from_string(read_bytes(path))
        network = _network(model, path)
        alike = _model(_graph(network), Bundle.bare(network))
    except UserError:
        raise
    except Exception as e:  # protobuf's errors, and those of NumPy about its arrays, have no common root
        raise DeployError(f"{path} is not a readable ONNX file ({type(e).__name__}); export again") from None
    if model.graph != alike.graph or model.opset_import != alike.opset_import or model.functions:
        raise DeployError(f"{path} computes something else than `srpo export` writes for its weights; export again")
    return network


def _network(model: onnx.ModelProto, path: Path) -> Network:
    meta = {p.key: p.value for p in model.metadata_props}
    if meta.get("format") != FORMAT:
        raise DeployError(f"{path} was not written by `srpo export`, so its layers are unknown; give a file that was")
    found = {array.name: numpy_helper.to_array(array) for array in model.graph.initializer}
    if "default" in found:
        found["dial"] = np.stack([found[name] for name in ("center", "half width", "default")])
    n_obs, n_act = (end[0].type.tensor_type.shape.dim[1].dim_value for end in (model.graph.input, model.graph.output))
    found = {"mean": np.zeros(n_obs, np.float32), "std": np.ones(n_obs, np.float32)} | found
    found |= {name: np.broadcast_to(found[name], n_act).copy() for name in ("low", "high")}
    return Network.from_tensors(found, meta.get("activation", ""), meta.get("squash", "tanh"))


def session(path: Path):
    """onnxruntime on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: it warns of a dial's default, which is in the file for those who read it
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # its errors have no common root
        raise DeployError(f"onnxruntime cannot use {path} ({plain(e, 200)}); export again") from None


def act(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Actions (..., act) of rows (..., obs), with a dial followed by beta, by onnxruntime; the file itself takes (batch, obs)."""
    network, run = read(path), session(path).run  # only what was read and found to be ours is run
    return lambda rows: every(lambda rows: run(["action"], feeds(network, rows))[0], rows)


def feeds(network: Network, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of the graph for rows (B, ...)."""
    obs, beta = network.split(rows)
    return {"obs": np.ascontiguousarray(obs)} | ({} if beta is None else {"beta": np.ascontiguousarray(beta[:, None])})
