"""Hostile exports: nothing that was found in a folder is compiled, no number is believed, no text reaches C."""

import json
import os
import shutil
import struct

import numpy as np
import onnx
import pytest
from deploy_cases import DATA, OBS, POLICIES
from hostile import ESCAPES, refused
from onnx import helper, numpy_helper
from safetensors.numpy import save

from srpo.cli import main
from srpo.deploy import Policy, c_file, contract, export_policy
from srpo.deploy.bundle import Bundle
from srpo.deploy.describe import describe
from srpo.deploy.latency import measure
from srpo.deploy.onnx_file import read
from srpo.deploy.runtime import read_tensors
from srpo.deploy.sources import Sources

TEXTS = ["*\\\n/ int evil; /*", ESCAPES, "??/\n*/", "@STEPS@", "\\u002a/"]


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "robot"
    export_policy(POLICIES["bc"], folder, data=DATA, calls=0)
    return folder


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_text_enters_c(tmp_path, text):
    """The same bytes whatever the recording called itself."""
    network = describe(POLICIES["bc"])
    golden = (DATA[:4], network.forward(DATA[:4]))
    for i, known in enumerate(({}, {"algorithm": text, "data": {"name": text, "env_id": text, "sha256": text}})):
        bundle = Bundle(network, golden, contract=known)
        c_file.write(bundle, tmp_path / f"{i}.c")
        c_file.write_check(bundle, tmp_path / f"{i}_check.c")
    for end in (".c", "_check.c"):
        assert (tmp_path / f"0{end}").read_bytes() == (tmp_path / f"1{end}").read_bytes()


def test_c_that_was_found_is_never_compiled(robot, tmp_path):
    folder, trap = tmp_path / "robot", tmp_path / "sprung"
    shutil.copytree(robot, folder)
    evil = f'#include <stdio.h>\n__attribute__((constructor)) static void f(void) {{ fclose(fopen("{trap}", "w")); }}\n'
    (folder / "policy.c").write_text(evil + (robot / "policy.c").read_text())
    assert "its hash differs" in refused(lambda: Sources(folder, tmp_path))
    known = json.loads((folder / "contract.json").read_text())
    known["files"]["policy.c"] = contract.hashlib.sha256((folder / "policy.c").read_bytes()).hexdigest()
    (folder / "contract.json").write_text(json.dumps(known))  # a contract by the same author
    (tmp_path / "made").mkdir()
    found = Sources(folder, tmp_path / "made").compiled()
    obs = DATA[:3]
    for policy in found.values():
        np.testing.assert_allclose(policy.act(obs), Policy(robot / "policy.safetensors").act(obs), atol=1e-4)
    assert not trap.exists()


CONTRACTS = {
    "no JSON": "{", "a list": "[]", "nested": "[" * 100_000, "no files": '{"format": 1}', "newer": '{"format": 99, "files": {}}',
    "files": '{"format": 1, "files": {"policy.c": "../x"}, "input": {}, "output": {}}',
    "empty": '{"format": 1, "files": {}, "input": {}, "output": {}}',
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRACTS)
def test_hostile_contracts(robot, tmp_path, case, capsys):
    folder = tmp_path / "robot"
    shutil.copytree(robot, folder)
    (folder / "contract.json").write_text(CONTRACTS[case])
    assert main(["bench", str(folder), "--calls", "100", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("contract.json is damaged" in said or "contract knows" in said)


def changed(robot, path, change):
    """The exported file with its arrays and texts changed."""
    tensors, meta = read_tensors(robot / "policy.safetensors")
    change(tensors, meta)
    path.write_bytes(save(tensors, meta))
    return path


def bounds_swapped(t, m):
    t["low"], t["high"] = t["high"], t["low"]


def contract_of_another(t, m):
    known = json.loads(m["contract"])
    known["output"]["signals"][0] |= {"low": 5.0, "high": -5.0}
    m["contract"] = json.dumps(known)


CHANGES = {
    "low above high": bounds_swapped,
    "a contract with other bounds": contract_of_another,
    "a contract that is a list": lambda t, m: m.update(contract="[1]"),
    "a deep contract": lambda t, m: m.update(contract="[" * 100_000),
    "support with NaN": lambda t, m: t.update({"support.mean": np.full(OBS, np.nan, "f4")}),
    "support without limit": lambda t, m: t.update({"support.limit": np.array(np.inf, "f4")}),
    "half a support": lambda t, m: t.pop("support.low"),
    "support low above high": lambda t, m: t.update({"support.low": t["support.high"] + 1}),
    "golden actions of another size": lambda t, m: t.update({"golden.action": np.zeros((16, 1), "f4")}),
    "golden observations of another number": lambda t, m: t.update({"golden.obs": t["golden.obs"][:3]}),
    "golden numbers": lambda t, m: t.update({"golden.obs": np.array(0, "f4")}),
    "golden NaN": lambda t, m: t.update({"golden.action": t["golden.action"] * np.float32(np.nan)}),
    "golden without actions": lambda t, m: t.pop("golden.action"),
    "golden beta without a dial": lambda t, m: t.update({"golden.beta": np.ones(16, "f4")}),
    "weights with NaN": lambda t, m: t.update({"layers.0.weight": t["layers.0.weight"] * np.float32(np.nan)}),
    "a deviation of zero": lambda t, m: t.update({"std": 0 * t["std"]}),
    "a layer that does not fit": lambda t, m: t.update({"layers.1.weight": np.zeros((3, 3), "f4")}),
    "no layers": lambda t, m: [t.pop(name) for name in list(t) if name.startswith("layers")],
    "another activation": lambda t, m: m.update(activation=ESCAPES),
    "another version": lambda t, m: m.update(version="9" * 5000),
    "another format": lambda t, m: m.update(format="x"),
    "another type": lambda t, m: t.update(mean=t["mean"].astype("f8")),
}


@pytest.mark.parametrize("case", CHANGES)
def test_policies_that_make_no_sense(robot, tmp_path, case):
    path = changed(robot, tmp_path / "p.safetensors", CHANGES[case])
    refused(lambda: Policy(path))


def raw(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(start, stop, shape=None):
    return {"dtype": "F32", "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


FILES = {
    "nothing": b"",
    "a short length": b"\1\0",
    "a header longer than the file": raw({}, size=1 << 40),
    "overlapping arrays": raw({f"a{i}": entry(0, 400) for i in range(500)}, bytes(400)),
    "millions of arrays": raw({f"a{i}": entry(4 * i, 4 * i + 4) for i in range(50_000)}, bytes(200_000)),
    "a gap": raw({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "bytes behind": raw({"a": entry(0, 4)}, bytes(400)),
    "a shape that lies": raw({"a": entry(0, 4, [1 << 40])}, bytes(4)),
    "a negative shape": raw({"a": entry(0, 4, [-1])}, bytes(4)),
    "a shape of floats": raw({"a": entry(0, 4, [1.0])}, bytes(4)),
    "offsets backwards": raw({"a": entry(4, 0, [1])}, bytes(4)),
    "offsets that are text": raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}, bytes(4)),
    "a name twice": raw(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', bytes(4)),
    "nested": raw(b"[" * 200_000),
    "metadata of numbers": raw({"__metadata__": {"format": 1}}),
    "a list": raw([1]),
}


@pytest.mark.parametrize("case", FILES)
def test_hostile_safetensors(tmp_path, case):
    path = tmp_path / "p.safetensors"
    path.write_bytes(FILES[case])
    refused(lambda: Policy(path), seconds=5)


def test_devices_and_pipes_are_no_policies(tmp_path):
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("zero.safetensors", "pipe.safetensors"):
        assert "no plain file" in refused(lambda name=name: Policy(tmp_path / name))
    refused(lambda: read(tmp_path / "pipe.onnx"))


def other_operator(graph, path):
    graph.node[-1].op_type = "Neg"


def external_weights(graph, path):
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def claimed_shape(graph, path):
    graph.initializer[0].dims[:] = [1 << 40]


def endless_loop(graph, path):
    graph.node.insert(0, helper.make_node("Loop", ["", ""], ["x"], body=helper.make_graph([], "b", [], [])))


def swapped_weights(graph, path):
    graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "extra"))


GRAPHS = [other_operator, external_weights, claimed_shape, endless_loop, swapped_weights]


@pytest.mark.parametrize("attack", GRAPHS, ids=lambda f: f.__name__)
def test_hostile_onnx(robot, tmp_path, attack):
    model, path = onnx.load(robot / "policy.onnx"), tmp_path / "p.onnx"
    attack(model.graph, path)
    path.write_bytes(model.SerializeToString())
    assert "export again" in refused(lambda: read(path))


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.onnx"])
def test_damaged_exports_are_refused_or_harmless(robot, tmp_path, name):
    whole, rng = (robot / name).read_bytes(), np.random.default_rng(0)
    reader = Policy if name.endswith("safetensors") else read
    path, refusals = tmp_path / name, 0
    for i in range(60):
        content = bytearray(whole)
        for at in rng.integers(0, len(content) if i % 2 else 3000, 3):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(1, len(content))] if i % 5 == 4 else content)
        try:
            reader(path)
        except Exception as e:
            refused(lambda e=e: (_ for _ in ()).throw(e))
            refusals += 1
    assert refusals > 12


def test_nothing_in_the_working_folder_is_imported(robot, tmp_path, monkeypatch):
    """Modules that lie beside a policy that somebody sent."""
    for name in ("onnxruntime", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    rows = measure(robot, calls=100, batches=(1,), forms=("onnx",))
    assert rows[0]["label"] == "onnxruntime" and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/nowhere")])
def test_exports_with_something_else_in_the_place_of_a_file(robot, tmp_path, make):
    shutil.copytree(robot, tmp_path / "robot")
    (tmp_path / "robot" / "policy.c").unlink()
    make(tmp_path / "robot" / "policy.c")
    assert "policy.c (" in refused(lambda: contract.require_vouched(tmp_path / "robot"))


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "p.c")
    assert "device or a pipe" in refused(lambda: export_policy(POLICIES["bc"], tmp_path / "p.c", force=True, calls=0))
    assert (tmp_path / "p.c").is_fifo() and len(list(tmp_path.iterdir())) == 1
