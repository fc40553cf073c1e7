"""Hostile run directories are refused in a line or two, or load as they should.

No code in them is executed, no file outside the run is written, and memory stays bounded.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toolkit, files_in

import toolkit as tk
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError

CONFIG = """\
timesteps: 40
env: {id: CartPole-v1}
algorithm:
  name: dqn
  params: {learning_starts: 8, buffer_size: 100}
  policy_params: {net_arch: [4]}
"""
MARKER = "executed"
Members = dict[str, bytes]
_BOMB_SIZE = 1 << 27  # bytes that a small file expands to; more than the memory that loading may take


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "small.yaml").write_text(CONFIG)
    return tk.train(directory / "small.yaml", directory / "run").directory


@pytest.fixture
def run(trained: Path, working_directory: Path) -> Path:
    """A run in the working directory."""
    return shutil.copytree(trained, working_directory / "run").relative_to(working_directory)


# --- hostile files --------------------------------------------------------------------------------------------------


class Bomb:
    """Touches the marker when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARKER}",)


def torch_saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


BOMBS = {
    **{f"protocol {number}": pickle.dumps(Bomb(), number) for number in (0, 2, 4)},
    "as torch saves it": torch_saved(Bomb()),
    "as torch saved it once": torch_saved(Bomb(), _use_new_zipfile_serialization=False),
}


class Storage:
    """The storage that a fake tensor names: ``numel`` numbers of the record ``data/<key>``."""

    def __init__(self, numel: int, key: str = "0") -> None:
        self.numel, self.key = numel, key


class FakeTensor:
    """A tensor that claims any shape, as torch writes it."""

    def __init__(self, *size: int, stride: tuple[int, ...] = (1,), offset: int = 0, numel: int = 4) -> None:
        self.arguments = Storage(numel), offset, size, stride, False, OrderedDict()  # type: ignore[var-annotated]

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


class Call:
    """A call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


class Pickler(pickle.Pickler):
    """Pickles as torch does."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, value.key, "cpu", value.numel) if isinstance(value, Storage) else None


def pickle_as_torch(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def torch_file(content: bytes, storage: bytes = bytes(16), compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file of ``torch.save`` with this pickle."""
    records = {"data.pkl": content, "byteorder": b"little", "data/0": storage, "version": b"3\n"}
    return zip_file({f"archive/{name}": record for name, record in records.items()}, compression)


def former_torch_file(content: bytes, keys: list[Any], storages: bytes) -> bytes:
    """Return a file as torch before 1.6 wrote it, with this pickle."""
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [*(pickle.dumps(value, 2) for value in pickles), content, pickle.dumps(keys, 2), storages]
    return b"".join(parts)


def zip_file(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def overlapping_storages(count: int, size: int) -> bytes:
    """Return a file of ``torch.save`` whose storages each contain all that follow: more bytes than it has."""
    content, sizes = bytes(size), []
    for number in reversed(range(count)):
        name = f"archive/data/{number:05}".encode()
        sizes.append((len(content), zlib.crc32(content)))
        fields = b"PK\3\4", 20, 0, 0, 0, 0, sizes[-1][1], len(content), len(content), len(name), 0
        content = struct.pack("<4s5H3L2H", *fields) + name + content
    tensors = []
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        file.write(content)
        archive.start_dir = len(content)
        for number, (length, crc) in enumerate(reversed(sizes)):
            info = zipfile.ZipInfo(f"archive/data/{number:05}")
            info.file_size, info.compress_size, info.CRC = length, length, crc
            info.header_offset = 48 * number
            archive.filelist.append(info)
            tensors.append(FakeTensor(1))
            tensors[-1].arguments = Storage(length // 4, f"{number:05}"), *tensors[-1].arguments[1:]
        archive.writestr("archive/data.pkl", pickle_as_torch({"a": tensors}))
    return file.getvalue()


def read_members(run: Path) -> Members:
    with zipfile.ZipFile(run / "model.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_policy(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(read_members(run)["policy.pth"]), weights_only=True)
    return loaded


def replace_parts(run: Path, **members: bytes) -> None:
    """Replace members of a run's model.zip; ``policy_optimizer`` is ``policy.optimizer.pth``."""
    names = {name: f"{name.replace('policy_optimizer', 'policy.optimizer')}.pth" for name in members}
    (run / "model.zip").write_bytes(zip_file(read_members(run) | {names[name]: members[name] for name in members}))


def assert_refused(finished: Any, *fragments: str) -> None:
    assert (finished.status, finished.out) == (2, ""), finished
    assert "Traceback" not in finished.err
    assert 1 <= len(finished.err.splitlines()) <= 2
    assert len(finished.err) < 1500
    assert finished.err.isprintable() or finished.err.replace("\n", "").isprintable()
    for fragment in fragments:
        assert fragment in finished.err
    assert not Path(MARKER).exists()


# --- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["config.yaml", "model.zip"])
def test_pickle_in_place_of_config_or_model_is_refused(name: str, bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    (run / name).write_bytes(bomb)
    for command in ("evaluate", "record"):
        assert_refused(toolkit(command, run), f"run/{name}")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["policy", "policy_optimizer"])
def test_pickle_in_place_of_weights_is_refused(name: str, bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    replace_parts(run, **{name: bomb})
    assert_refused(toolkit("evaluate", run), "run/model.zip: is damaged, or no SB3 model: policy")
    replace_parts(run, **{name: torch_file(bomb)})
    assert_refused(toolkit("evaluate", run), "run/model.zip: is damaged, or no SB3 model: policy")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("member", ["data", "pytorch_variables.pth", "system_info.txt", "_stable_baselines3_version"])
def test_pickle_in_unused_member_of_model_is_not_read(member: str, bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    (run / "model.zip").write_bytes(zip_file(read_members(run) | {member: bomb}))
    assert toolkit("evaluate", run, "--episodes", "1").status == 0
    assert not Path(MARKER).exists()


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_pickle_in_place_of_other_files_is_refused_or_not_read(bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    learned = {name for name in files_in(run) if name.startswith("wrappers/")}
    others = files_in(run) - {"config.yaml", "model.zip"} | {"videos/x.mp4", "snapshots/40/state.json"}
    for name in others - learned:
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_bytes(bomb)
    assert toolkit("evaluate", run, "--episodes", "1").status == 0
    for name in learned:
        (run / name).write_bytes(bomb)
        assert_refused(toolkit("evaluate", run), "run/wrappers")
    assert_refused(toolkit("plot", run), "run/monitor.csv: is not a monitor.csv")
    assert_refused(toolkit("resume", run), "run/result.json: is damaged")
    assert "is damaged" in tk.load(run)._repr_html_()
    assert not Path(MARKER).exists()


# --- weights --------------------------------------------------------------------------------------------------------


def compressed_numbers() -> bytes:
    numbers = pickle_as_torch({"a": FakeTensor(_BOMB_SIZE // 4, numel=_BOMB_SIZE // 4)})
    return torch_file(numbers, bytes(_BOMB_SIZE), zipfile.ZIP_DEFLATED)


def compressed_pickle() -> bytes:
    return torch_file(bytes(_BOMB_SIZE), compression=zipfile.ZIP_DEFLATED)


TUPLES = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
WEIGHTS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "names os.system": (torch_file(pickle.dumps({"a": Call(os.system, "x")}, 2)), "system', which no weights need"),
    "names bytearray": (torch_file(pickle.dumps({"a": Call(bytearray, 10**11)}, 2)), "bytearray', which no weights"),
    "builds a sparse tensor": (
        torch_saved({"a": torch.eye(2).to_sparse()}),
        "_rebuild_sparse_tensor', which no weights",
    ),
    "names a numpy scalar": (torch_saved({"a": __import__("numpy").float64(1)}), "scalar', which no weights"),
    "calls a storage": (torch_file(pickle.dumps({"a": Call(torch.FloatStorage, 10**11)}, 2)), "policy.pth: it"),
    "a tensor of 2**40 numbers": (
        torch_file(pickle_as_torch({"a": FakeTensor(2**40)})),
        "claims more numbers than the file has",
    ),
    "2**40 numbers from one": (
        torch_file(pickle_as_torch({"a": FakeTensor(2**20, 2**20, stride=(0, 0))})),
        "claims more numbers",
    ),
    "numbers before the first": (torch_file(pickle_as_torch({"a": FakeTensor(2, stride=(-1,))})), "no whole number"),
    "numbers after the last": (torch_file(pickle_as_torch({"a": FakeTensor(2, offset=3)})), "claims more numbers"),
    "a huge stride": (torch_file(pickle_as_torch({"a": FakeTensor(2, stride=(2**40,))})), "claims more numbers"),
    "a storage longer than its record": (
        torch_file(pickle_as_torch({"a": FakeTensor(4, numel=2**40)})),
        "not as long as it should be",
    ),
    "a tensor of a million axes": (
        torch_file(pickle_as_torch({"a": FakeTensor(*[1] * 9999, stride=(1,) * 9999)})),
        "no proper shape",
    ),
    "a key that overflows the stack": (torch_file(TUPLES), "data.pkl claims"),
    "a smaller one": (torch_file(TUPLES[:60_000] + b"K\x01s."), "neither text nor a number"),
    "a memo of 2**31 entries": (torch_file(b"\x80\x02}r\xff\xff\xff\x7f."), "has no 'q_net"),
    "bytes of a claimed length": (torch_file(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00" + b"."), "policy.pth: "),
    "storages that overlap": (overlapping_storages(8, 1 << 18), "data/00001 claims 262,432 bytes, and could have"),
    "a pickle without end": (torch_file(b"\x80\x02}"), "policy.pth: "),
    "a pickle out of nothing": (torch_file(b"\x80\x02u."), "policy.pth: "),
    "no mapping": (torch_file(b"\x80\x02]."), "it is no mapping"),
    "a mapping in itself": (torch_file(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."), "has no 'q_net"),
    "a former file's storage of 2**40 numbers": (
        former_torch_file(
            pickle_as_torch({"a": FakeTensor(4, numel=2**40)}), ["0"], (2**40).to_bytes(8, "little") + bytes(16)
        ),
        "a storage of it is not as long as it should be",
    ),
    "a former file's storage of another length": (
        former_torch_file(pickle_as_torch({"a": FakeTensor(4)}), ["0"], (5).to_bytes(8, "little") + bytes(16)),
        "a storage of it is not as long as it should be",
    ),
    "a former file's unknown storage": (former_torch_file(pickle_as_torch({"a": 1}), ["1"], b""), "policy.pth: "),
    "a former file without storages": (
        former_torch_file(pickle_as_torch({"a": FakeTensor(4)}), [], b""),
        "policy.pth: ",
    ),
    "a former file's pickle of a million operations": (
        former_torch_file(TUPLES, [], b""),
        "a pickle of it has more than",
    ),
    "a former file's foreign name": (
        former_torch_file(pickle.dumps({"a": Call(os.system, "x")}, 2), [], b""),
        "system', which no weights need",
    ),
    "an empty zip": (zip_file({}), "it has no data.pkl"),
    "nothing": (b"", "policy.pth: "),
    "compressed numbers": (cache(compressed_numbers), f"data/0 claims {_BOMB_SIZE:,} bytes"),
    "a compressed pickle": (cache(compressed_pickle), "data.pkl claims"),
}


@pytest.mark.parametrize(("content", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_hostile_weights_are_refused(
    content: bytes | Callable[[], bytes], message: str, run: Path, toolkit: Toolkit
) -> None:
    replace_parts(run, policy=content() if callable(content) else content)
    assert_refused(toolkit("evaluate", run), "error: run/model.zip: ", message)


MISFITS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "NaN": (lambda tensor: tensor * torch.nan, "numbers that are not finite"),
    "one infinite number": (
        lambda tensor: tensor.index_fill(0, torch.tensor(0), torch.inf),
        "numbers that are not finite",
    ),
    "another shape": (lambda tensor: tensor.T.contiguous(), "has the shape (4, 2) and should have (2, 4)"),
    "more of it": (lambda tensor: torch.cat([tensor, tensor]), "has the shape (4, 4) and should have (2, 4)"),
    "float64": (lambda tensor: tensor.double(), "holds torch.float64 and should hold torch.float32"),
    "whole numbers": (lambda tensor: tensor.long(), "holds torch.int64"),
    "text": (lambda tensor: "weights", "is no tensor"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_tensor_that_does_not_fit_is_named(
    change: Callable[[torch.Tensor], Any], message: str, run: Path, toolkit: Toolkit
) -> None:
    weights = read_policy(run)
    name = next(name for name, tensor in weights.items() if tensor.shape == (2, 4))
    replace_parts(run, policy=torch_saved(weights | {name: change(weights[name])}))
    finished = toolkit("evaluate", run)
    assert_refused(finished, f"error: run/model.zip: does not fit the run's config.yaml: policy: {name}", message)


OPTIMIZERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no state": (lambda state: {"param_groups": state["param_groups"]}, "is the state of no optimizer"),
    "another number of parameters": (lambda state: state | {"param_groups": []}, "is of other parameters"),
    "an infinite learning rate": (lambda state: change_group(state, lr=float("inf")), "lr is not finite"),
    "a learning rate of text": (lambda state: change_group(state, lr={}), "lr is no setting"),
    "a larger moment": (lambda state: state | {"state": {0: {"exp_avg": torch.zeros(100)}}}, "has the shape (100,)"),
    "a moment of NaN": (
        lambda state: state | {"state": {0: {"exp_avg": torch.full((4, 4), torch.nan)}}},
        "not finite",
    ),
    "a moment of no parameter": (lambda state: state | {"state": {99: {}}}, "of a parameter that does not exist"),
}


def change_group(state: dict[str, Any], **values: Any) -> dict[str, Any]:
    return state | {"param_groups": [state["param_groups"][0] | values]}


@pytest.mark.parametrize(("change", "message"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer_state_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, run: Path, toolkit: Toolkit
) -> None:
    state = torch.load(io.BytesIO(read_members(run)["policy.optimizer.pth"]), weights_only=True)
    replace_parts(run, policy_optimizer=torch_saved(change(state)))
    assert_refused(toolkit("evaluate", run), "run/model.zip: ", "policy.optimizer", message)


# --- zips -----------------------------------------------------------------------------------------------------------


def claiming(content: bytes, size: int) -> bytes:
    """Return a zip whose first member claims so many bytes in the directory and in its own header."""
    data = bytearray(content)
    central = int.from_bytes(data[-6:-2], "little")
    data[central + 24 : central + 28] = data[22:26] = size.to_bytes(4, "little")
    return bytes(data)


ZIPS: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "a name above the run": (lambda members: zip_file(members | {"../../evil": b"x"}), "'../../evil'"),
    "an absolute name": (lambda members: zip_file(members | {"/tmp/evil.pth": b"x"}), "'/tmp/evil.pth'"),
    "a name of control characters": (lambda members: zip_file(members | {"\x1b[2Jevil": b"x"}), "'\\x1b[2Jevil'"),
    "a name of a thousand letters": (lambda members: zip_file(members | {"x" * 1000: b"x"}), "x" * 80),
    "weights of another model": (lambda members: zip_file(members | {"actor.pth": b"x"}), "'actor.pth'"),
    "no weights": (lambda members: zip_file({"data": members["data"]}), "it has no parameters"),
    "one part": (lambda members: zip_file({"policy.pth": members["policy.pth"]}), "it has no policy.optimizer.pth"),
    "a compressed member": (lambda m: zip_file(m | {"policy.pth": bytes(_BOMB_SIZE)}, zipfile.ZIP_DEFLATED), "claims"),
    "a claim of four gigabytes": (
        lambda m: claiming(zip_file({"policy.pth": m["policy.pth"]} | m), 2**32 - 2),
        "claims",
    ),
    "a claim of nothing": (lambda m: claiming(zip_file({"policy.pth": m["policy.pth"]} | m), 0), "policy.pth"),
    "a compression that asks for memory": (lambda members: zip_file(members, zipfile.ZIP_LZMA), "in an unusual way"),
    "a long directory": (lambda m: zip_file(m | {f"{n:01000}": b"" for n in range(5_000)}), "too long"),
    "one member twice": (
        lambda m: zip_file(m).replace(b"pytorch_variables.pth", b"policy.optimizer.pth\0"),
        "SB3 model",
    ),
    "a directory that lies about its place": (lambda m: zip_file(m)[:-8] + b"\xff" * 8, "no SB3 model"),
}


@pytest.mark.parametrize(("content", "message"), ZIPS.values(), ids=ZIPS)
def test_hostile_zip_is_refused(
    content: Callable[[Members], bytes], message: str, run: Path, toolkit: Toolkit
) -> None:
    before = files_in(Path())
    (run / "model.zip").write_bytes(content(read_members(run)))
    assert_refused(toolkit("evaluate", run), "error: run/model.zip: ", message)
    assert files_in(Path()) == before


def test_damaged_model_zip_is_refused_or_loads_same_weights(run: Path) -> None:
    good = (run / "model.zip").read_bytes()
    whole = read_policy(run)
    generator = random.Random(0)
    refused = 0
    for number in range(120):
        position = generator.randrange(len(good))
        flipped = good[:position] + bytes([good[position] ^ 1 << number % 8]) + good[position + 1 :]
        (run / "model.zip").write_bytes(good[:position] if number % 4 == 0 else flipped)
        try:
            model = load_model(tk.load(run))
        except RunError:
            refused += 1
        else:
            loaded = model.policy.state_dict()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())
    assert 60 < refused < 120


def measure_memory(run: Path, directories: list[Path], connection: Connection) -> None:
    """Send by how many MiB the peak memory of this process has grown after each load, and after an allocation."""
    load_model(RunDirectory.open(run))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = []
    for directory in directories:
        with pytest.raises(RunError):
            load_model(RunDirectory.open(directory))
        grown.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) >> 10)
    allocation = bytearray(os.urandom(1)) * (2 * _BOMB_SIZE)
    grown.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) >> 10)
    connection.send((grown, len(allocation)))


def test_hostile_models_take_little_memory(run: Path) -> None:
    good = read_members(run)
    weights = [content() if callable(content) else content for content, _ in WEIGHTS.values()]
    bombs = [zip_file(good | {"policy.pth": content}) for content in weights]
    bombs += [content(good) for content, _ in ZIPS.values()]
    directories = [Path(shutil.copytree(run, f"bomb-{number}")) for number in range(len(bombs))]
    for directory, bomb in zip(directories, bombs, strict=True):
        (directory / "model.zip").write_bytes(bomb)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=measure_memory, args=(run, directories, sender))
    process.start()
    sender.close()
    grown, _ = receiver.recv()
    process.join()
    assert max(grown[:-1]) < 100, dict(zip([*WEIGHTS, *ZIPS], grown, strict=False))
    assert grown[-1] > 100  # the measure sees an allocation


# --- other files ----------------------------------------------------------------------------------------------------

YAML = {
    "a tag": ("!!python/object/apply:os.system [touch executed]\n", "YAML tags are not read"),
    "a tag within": ("timesteps: !!python/name:os.system\n", "YAML tags are not read"),
    "aliases that double": ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "anchors and aliases are not read"),
    "nesting": ("a: " + "[" * 100_000, "is nested more than 40 levels deep"),
    "too many values": ("a: [" + "1," * 60_000 + "]", "has more than 50,000 values"),
    "two megabytes": ("a: '" + "x" * (2 << 20) + "'", "is larger than 1 MiB"),
    "a list": ("- 1\n", "must be a mapping"),
    "nothing": ("", "is empty"),
    "zeros": ("\0" * 1000, "is not text"),
    "another file": ("extends: /etc/passwd\n", "must be a mapping"),
    "itself": ("extends: config.yaml\n", "is circular"),
    "control characters": (CONFIG.replace("dqn", '"\\e[2J\\u202e"'), "\\x1b[2J"),
}


@pytest.mark.parametrize(("content", "message"), YAML.values(), ids=YAML)
def test_hostile_config_is_refused(content: str, message: str, run: Path, toolkit: Toolkit) -> None:
    (run / "config.yaml").write_text(content)
    for command in ("evaluate", "describe") if len(content) < 100_000 else ("evaluate",):
        assert_refused(toolkit(command, run), message)


RESULTS = [
    *("[", "[]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 100_000, '[["success", "x"]]', '{"success": "x"}'),
    *('{"success": [1]}', '{"success": {"episode": "x"}}', '{"success": {"episode": -3}}', '{"timesteps": "x"}'),
    *('{"success": {"episodes": 0}}', '{"success": {"threshold": [1]}}', '{"success": {"episode": true}}', "9" * 5000),
    *('{"success": {"episodes": 1e300}}', "\0\xff", '{"status": 1}', " " * (2 << 20)),
]


@pytest.mark.parametrize("content", RESULTS, ids=lambda content: content[:30])
def test_foreign_result_json_is_refused(content: str, run: Path, toolkit: Toolkit) -> None:
    (run / "result.json").write_text(content)
    for command in ("plot", "resume"):
        assert_refused(toolkit(command, run), "error: run/result.json: is damaged")
    assert "is damaged" in tk.load(run)._repr_html_()


def test_evaluate_ignores_damaged_result_json(run: Path, toolkit: Toolkit) -> None:
    (run / "result.json").write_text("[")
    assert toolkit("evaluate", run, "--episodes", "1").status == 0


@pytest.mark.parametrize(
    "row",
    [
        *(
            "1,2",
            "nan,1,1",
            "inf,1,1",
            "1e308,1,1",
            "1,-5,1",
            "1,1.5,1",
            f"1,{2**64},1",
            f"1,{'9' * 5000},1",
            "\x1b,1,1",
        )
    ],
    ids=lambda row: row[:20],
)
def test_invalid_episode_in_monitor_csv_is_refused(row: str, run: Path, toolkit: Toolkit) -> None:
    (run / "monitor.csv").write_text(f"#{{}}\nr,l,t\n1,1,1\n{row}\n")
    assert_refused(toolkit("plot", run), "error: run/monitor.csv:4: is not an episode")


@pytest.mark.parametrize("name", ["result.json", "monitor.csv"])
def test_oversized_file_is_refused(name: str, run: Path, toolkit: Toolkit) -> None:
    with (run / name).open("wb") as file:
        file.truncate(2**40)
    assert_refused(toolkit("plot", run), f"error: run/{name}: ")


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "\0", '{"versions": {"python": []}}'])
def test_damaged_environment_json_is_ignored(content: str, run: Path, toolkit: Toolkit) -> None:
    (run / "environment.json").write_text(content)
    (run / "result.json").unlink()
    for command in ("evaluate", "resume"):
        assert toolkit(command, run).status == 0


# --- links ----------------------------------------------------------------------------------------------------------


def test_record_refuses_link_in_place_of_videos(run: Path, toolkit: Toolkit) -> None:
    Path("elsewhere").mkdir()
    (run / "videos").symlink_to(Path("elsewhere").resolve())
    assert_refused(toolkit("record", run), "error: run/videos: is a link, and nothing is written through it\nname a")
    assert not files_in(Path("elsewhere"))
    assert toolkit("record", run, "--out", "elsewhere").status == 0


@pytest.mark.parametrize("name", ["videos", "snapshots", "tensorboard", "snapshots/40", "monitor.csv"])
def test_resume_refuses_link_in_run_directory(name: str, run: Path, toolkit: Toolkit) -> None:
    (run / "result.json").unlink()
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    elsewhere = Path("elsewhere").resolve()
    (elsewhere / ".recording-mine").mkdir(parents=True)
    (elsewhere / ".recording-mine" / "precious").write_text("mine")
    path.symlink_to(elsewhere)
    assert_refused(toolkit("resume", run), f"error: run/{name}: is a link, and nothing is written through it")
    assert files_in(elsewhere) == {".recording-mine/precious"}


def test_plot_replaces_link_without_following_it(run: Path, toolkit: Toolkit) -> None:
    Path("precious").write_text("mine")
    (run / "learning_curve.png").symlink_to(Path("precious").resolve())
    assert toolkit("plot", run).status == 0
    assert Path("precious").read_text() == "mine"
    assert not (run / "learning_curve.png").is_symlink()


def test_notebook_does_not_show_video_that_is_link(run: Path) -> None:
    Path("secret").write_text("my secret")
    (run / "videos").mkdir()
    (run / "videos" / "x.mp4").symlink_to(Path("secret").resolve())
    assert "no video yet" in tk.load(run)._repr_html_()


def test_run_and_model_may_be_links(run: Path, toolkit: Toolkit) -> None:
    (run / "model.zip").rename("elsewhere.zip")
    (run / "model.zip").symlink_to(Path("elsewhere.zip").resolve())
    Path("link").symlink_to(run)
    assert toolkit("evaluate", "link", "--episodes", "1").status == 0


@pytest.mark.parametrize("name", ["model.zip", "config.yaml", "result.json", "monitor.csv"])
@pytest.mark.parametrize("what", ["a pipe", "a device", "a directory", "a loop", "nowhere"])
def test_path_that_is_no_file_is_refused(name: str, what: str, run: Path, toolkit: Toolkit) -> None:
    path = run / name
    path.unlink()
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a directory":
            path.mkdir()
        case "a loop":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("nowhere")
    finished = toolkit("evaluate" if name in ("model.zip", "config.yaml") else "plot", run)
    if (name, what) == ("result.json", "nowhere"):
        assert finished.status == 0, "a run in training has none either"
        return
    assert_refused(finished, "error: run")
